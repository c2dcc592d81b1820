# A webhook that is signed, and an API key by its digest.
package kinds.signatures

default allow := {"allowed": false, "http_status": 401}

allow := {"allowed": true, "reason": "signed"} if {
	header := input.attributes.request.http.headers["x-signature"]
	[algorithm, given] := split(header, "=")
	algorithm == "sha256"
	crypto.hmac.equal(given, crypto.hmac.sha256(input.attributes.request.http.body, data.secret))
}

allow := {"allowed": true, "reason": sprintf("key of %v", [owner])} if {
	not input.attributes.request.http.headers["x-signature"]
	owner := data.keys[crypto.sha256(input.attributes.request.http.headers["x-api-key"])]
}
