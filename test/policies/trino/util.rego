package trino.util

writing := {"InsertIntoTable", "DeleteFromTable", "UpdateTableColumns"}

# Patterns match the whole text.
matches(pattern, value) if regex.match(sprintf("^(?:%s)$", [pattern]), value)
