# METADATA
# title: Who may do what
# description: |
#   The starter policy. It allows what a role grants and says why it denies. Edit a rule, run `make bundle`,
#   and the running gate decides by it a moment later; no request is lost.
package gate.authz

# The answer the gate asks for: an object whose `allowed` is true, or a denial with its reason.
# METADATA
# entrypoint: true
decision := {"allowed": true, "reason": concat(", ", allow_reasons)} if {
	count(allow_reasons) > 0
} else := {"allowed": false, "reason": "no role grants this"}

# Anyone may read what the route calls public; such routes say `auth: none`.
allow_reasons contains "public" if {
	input.route.labels.visibility == "public"
	reading
}

# A role grants an action on a path below its prefix.
allow_reasons contains by_role(role) if {
	some role in input.principal.claims.roles
	some grant in data.roles[role]
	input.attributes.request.http.method in grant.methods
	starts_with_segments(input.parsed_path, grant.path)
}

reading if input.attributes.request.http.method in {"GET", "HEAD"}

# Whole segments are compared, so a grant on `orders` does not reach `orders-archive`.
starts_with_segments(path, prefix) if array.slice(path, 0, count(prefix)) == prefix

by_role(role) := concat(" ", ["role", role])
