# Attributes of the caller, the resource and the environment: clearance, region, network, hours.
package app.abac

import rego.v1

caller := input.principal.claims

document := data.documents[input.parsed_path[1]]

now := time.parse_rfc3339_ns(input.attributes.request.time)

working_hours if {
	[hour, _, _] := time.clock([now, data.zone])
	hour >= 8
	hour < 18
	not time.weekday([now, data.zone]) in {"Saturday", "Sunday"}
}

in_network if {
	some network in data.networks[document.region]
	net.cidr_contains(network, input.attributes.source.address.socketAddress.address)
}

levels := {"public": 0, "internal": 1, "secret": 2}

cleared if levels[caller.clearance] >= levels[document.level]

default decision := false

decision if {
	document.level == "public"
	input.attributes.request.http.method == "GET"
}

decision if {
	cleared
	in_network
	working_hours
	caller.department == document.department
}

decision := {"allowed": true, "headers": {"x-audit": "out-of-hours"}} if {
	document.level != "public"
	cleared
	in_network
	not working_hours
	caller.on_call == true
}
