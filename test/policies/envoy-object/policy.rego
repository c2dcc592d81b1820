# The whole answer of the Envoy plugin, in the syntax before OPA 1.0.
package envoy.authz

default allow = {"allowed": false, "http_status": 401, "body": "sign in", "headers": {"www-authenticate": "Bearer"}}

allow = response {
	user
	not blocked
	response := {
		"allowed": true,
		"headers": {"x-user": user, "x-teams": teams},
		"response_headers_to_add": {"cache-control": "private"},
		"request_headers_to_remove": ["cookie", "x-debug"],
		"reason": sprintf("%v of %v teams", [user, count(teams)]),
	}
}

allow = {"allowed": false, "http_status": 403, "reason": reason} {
	user
	blocked
	reason := concat(" ", ["blocked", user])
}

user := name {
	name := data.keys[input.attributes.request.http.headers["x-api-key"]].name
}

teams := [team | team := data.keys[input.attributes.request.http.headers["x-api-key"]].teams[_]]

blocked {
	data.blocked[_] == user
}

blocked {
	input.parsed_path[0] == "admin"
	not is_admin
}

is_admin {
	teams[_] == "admins"
}
