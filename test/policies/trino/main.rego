# What a query may do: the question comes as the body. Catalogs, schemas and tables are matched by patterns, the first one counts.
package trino

import data.trino.rules
import data.trino.util

default allow := false

action := input.parsed_body.action

identity := input.parsed_body.context.identity

allow if {
	action.operation in {"ExecuteQuery", "ReadSystemInformation"}
	identity.user != ""
}

allow if {
	action.operation == "AccessCatalog"
	rules.catalog_access(action.resource.catalog.name) in {"read-only", "all"}
}

allow if {
	action.operation in {"ShowTables", "ShowSchemas"}
	rules.schema_owner(action.resource.schema)
}

allow if {
	action.operation == "SelectFromColumns"
	privileges := rules.table_privileges(action.resource.table)
	"SELECT" in privileges
	columns_allowed
}

allow if {
	action.operation in util.writing
	required := {"InsertIntoTable": "INSERT", "DeleteFromTable": "DELETE", "UpdateTableColumns": "UPDATE"}[action.operation]
	rules.catalog_access(action.resource.table.catalogName) == "all"
	required in rules.table_privileges(action.resource.table)
}

allow if {
	action.operation == "ImpersonateUser"
	some rule in data.impersonation
	util.matches(rule.original_user, identity.user)
	util.matches(rule.new_user, action.resource.user.user)
	rule.allow
}

columns_allowed if {
	hidden := rules.hidden_columns(action.resource.table)
	every column in action.resource.table.columns {
		not column in hidden
	}
}

masks[column] := expression if {
	some column in action.resource.table.columns
	expression := rules.mask(action.resource.table, column)
}

filters contains row_filter if {
	some rule in data.tables
	rules.table_applies(rule, action.resource.table)
	row_filter := rule.filter
}

decision := {"allowed": allow, "dynamic_metadata": {"masks": masks, "filters": count(filters)}}
