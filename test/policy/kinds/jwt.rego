# A token verified by the policy itself, as policies for Envoy do.
package kinds.jwt

import input.attributes.request.http as http

default allow := false

allow if {
	valid
	payload.aud == "api"
	payload.role in data.roles[http.method]
	not expired
}

expired if payload.exp * 1000000000 < time.parse_rfc3339_ns(input.attributes.request.time)

token := trim_prefix(http.headers.authorization, "Bearer ")

valid if io.jwt.verify_hs256(token, data.secret)

payload := io.jwt.decode(token)[1]
