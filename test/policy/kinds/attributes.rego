# Conditions on who asks and what is asked for.
package kinds.attributes

default allow := false

allow if {
	input.principal.tenant == tenant
	not locked
	may
}

tenant := input.parsed_path[1]

may if "admin" in input.principal.scopes

may if {
	input.attributes.request.http.method == "GET"
	object.subset(input.principal.claims.attributes, data.required[resource])
}

may if {
	owner := data.owners[sprintf("%s/%s", [tenant, resource])]
	owner == input.principal.subject
	semver.compare(object.get(input.principal.claims, "client", "0.0.0"), "2.1.0") >= 0
}

resource := input.parsed_path[2]

locked if input.route.labels.locked == "true"

locked if units.parse_bytes(object.get(input.principal.claims, "quota", "0")) < input.attributes.request.http.size
