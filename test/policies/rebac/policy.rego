# Relations between users, groups, folders and documents, as tuples; access follows from a path through them.
package app.rebac

import rego.v1

user := sprintf("user:%s", [input.principal.subject])

object := sprintf("doc:%s", [input.parsed_path[1]]) if input.parsed_path[0] == "docs"

object := sprintf("folder:%s", [input.parsed_path[1]]) if input.parsed_path[0] == "folders"

# A node without a way on must be in the graph as well: graph.reachable leaves out what is no key.
subjects := graph.reachable(membership, {user}) | {user}

nodes := {node | some tuple in data.tuples; some node in [tuple.subject, tuple.object]}

membership := {node: groups |
	some node in nodes
	groups := [tuple.object | some tuple in data.tuples; tuple.relation == "member"; tuple.subject == node]
}

parents := {node: above |
	some node in nodes
	above := [tuple.subject | some tuple in data.tuples; tuple.relation == "parent"; tuple.object == node]
}

# The object and everything that contains it.
lineage := graph.reachable(parents, {object})

implied := {"viewer": {"viewer", "editor", "owner"}, "editor": {"editor", "owner"}, "owner": {"owner"}}

has(relation) if {
	some tuple in data.tuples
	tuple.relation in implied[relation]
	tuple.object in lineage
	tuple.subject in subjects
}

banned if {
	some tuple in data.tuples
	tuple.relation == "banned"
	tuple.object in lineage
	tuple.subject in subjects
}

needed := {"GET": "viewer", "PUT": "editor", "DELETE": "owner"}[input.attributes.request.http.method]

decision := {"allowed": allow, "reason": concat(" ", [user, needed, object])}

default allow := false

allow if {
	has(needed)
	not banned
}
