package trino.rules

import data.trino.util

identity := input.parsed_body.context.identity

user_applies(rule) if {
	util.matches(object.get(rule, "user", ".*"), identity.user)
	group_applies(rule)
}

group_applies(rule) if not rule.group

group_applies(rule) if {
	some group in identity.groups
	util.matches(rule.group, group)
}

catalog_rules(name) := [rule.allow |
	some rule in data.catalogs
	user_applies(rule)
	util.matches(object.get(rule, "catalog", ".*"), name)
]

catalog_access(name) := catalog_rules(name)[0]

schema_owner(schema) if {
	owners := [rule.owner |
		some rule in data.schemas
		user_applies(rule)
		util.matches(object.get(rule, "schema", ".*"), schema.schemaName)
	]
	owners[0]
}

table_applies(rule, table) if {
	user_applies(rule)
	util.matches(object.get(rule, "catalog", ".*"), table.catalogName)
	util.matches(object.get(rule, "schema", ".*"), table.schemaName)
	util.matches(object.get(rule, "table", ".*"), table.tableName)
}

first_rule(table) := [rule |
	some rule in data.tables
	table_applies(rule, table)
][0]

table_privileges(table) := {privilege | some privilege in first_rule(table).privileges}

hidden_columns(table) := {column.name |
	some column in object.get(first_rule(table), "columns", [])
	column.allow == false
}

mask(table, name) := [column.mask |
	some column in first_rule(table).columns
	column.name == name
	column.mask
][0]
