# Roles that contain others, with what they grant on which kind of resource, and duties that exclude each other.
package app.rbac

default allow := false

kind := input.parsed_path[0]

verb := {"GET": "read", "HEAD": "read", "POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete"}[input.attributes.request.http.method]

direct := {role | some role in data.bindings[input.principal.subject]} | {role | some group in input.principal.claims.groups; some role in data.group_bindings[group]}

roles := graph.reachable(data.contains, direct)

allow if {
	some role in roles
	some grant in data.grants[role]
	verb in grant.verbs
	kind in grant.kinds
	not conflict
}

allow if {
	"superuser" in roles
	input.principal.claims.acr == "2"
}

conflict if {
	some pair in data.exclusive
	count({role | some role in pair; role in roles}) > 1
}
