# As the guides to OPA's Envoy plugin have it: the policy itself verifies the token.
package envoy.authz

import rego.v1

import input.attributes.request.http as http_request

default allow := false

allow if {
	token.valid
	action_allowed
}

action_allowed if {
	http_request.method == "GET"
	token.payload.role in {"guest", "admin"}
	glob.match("/people/*", ["/"], http_request.path)
}

action_allowed if {
	http_request.method == "POST"
	token.payload.role == "admin"
	input.parsed_body.firstname
	lower(input.parsed_body.firstname) != base64url.decode(token.payload.sub)
}

token := {"valid": valid, "payload": payload} if {
	[scheme, encoded] := split(http_request.headers.authorization, " ")
	lower(scheme) == "bearer"
	[valid, _, payload] := io.jwt.decode_verify(encoded, {"secret": data.secret, "time": 1767225600000000000})
}
