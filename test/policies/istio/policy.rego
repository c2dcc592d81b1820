# Roles of a user of HTTP basic authentication, in the syntax before OPA 1.0 with the keywords of later ones.
package istio.authz

import future.keywords
import input.attributes.request.http as http_request
import input.parsed_path

default allow = false

allow if {
	parsed_path[0] == "health"
	http_request.method == "GET"
}

allow if {
	some role in roles_for_user
	role in required_roles
}

roles_for_user contains role if {
	some role in data.user_roles[user_name]
}

required_roles contains role if {
	some role, permissions in data.role_permissions
	some permission in permissions
	permission.method == http_request.method
	permission.path == http_request.path
}

user_name := parsed if {
	[_, encoded] := split(http_request.headers.authorization, " ")
	[parsed, _] := split(base64.decode(encoded), ":")
}
