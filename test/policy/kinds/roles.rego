# Roles that include each other, and what they grant.
package kinds.roles

default allow := {"allowed": false, "reason": "no role grants this"}

allow := {"allowed": true, "reason": concat(", ", granting)} if count(granting) > 0

granting contains role if {
	some role in mine
	some grant in data.roles[role].grants
	input.attributes.request.http.method in grant.methods
	array.slice(input.parsed_path, 0, count(grant.path)) == grant.path
}

mine := graph.reachable({role: data.roles[role].includes | some role, _ in data.roles}, input.principal.claims.roles)
