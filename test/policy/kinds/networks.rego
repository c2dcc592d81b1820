# Callers by address, and addresses that a header claims.
package kinds.networks

default allow := false

allow if {
	some network in data.allowed
	net.cidr_contains(network, address)
	every blocked in data.blocked {
		not net.cidr_contains(blocked, address)
	}
	claimed_inside
}

claimed_inside if not input.attributes.request.http.headers["x-claimed"]

claimed_inside if {
	claimed := input.attributes.request.http.headers["x-claimed"]
	net.cidr_is_valid(claimed)
	count(net.cidr_contains_matches(data.allowed, [claimed])) > 0
}

address := input.attributes.source.address.socketAddress.address
