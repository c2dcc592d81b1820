# What a customer has bought: features of plans, add-ons, limits, trials. Denials win.
package app.entitlements

feature := input.attributes.contextExtensions.feature

customer := data.customers[input.principal.tenant]

plan := data.plans[customer.plan]

entitled contains "plan" if feature in plan.features

entitled contains "addon" if {
	some addon in customer.addons
	feature in data.addons[addon]
}

entitled contains "trial" if {
	ends := time.parse_rfc3339_ns(customer.trials[feature])
	time.parse_rfc3339_ns(input.attributes.request.time) < ends
}

denied contains "suspended" if customer.state == "suspended"

denied contains "size" if input.attributes.request.http.size > object.get(plan, "max_bytes", 1000)

denied contains "seats" if {
	to_number(input.parsed_query.seats[0]) > plan.seats
}

denied contains "region" if {
	not customer.region == "any"
	not input.route.labels.region == customer.region
}

default decision := {"allowed": false, "http_status": 402}

decision := {"allowed": false, "http_status": 403, "reason": sprintf("%d denials", [count(denied)])} if {
	count(denied) > 0
} else := {"allowed": true, "headers": {"x-plan": customer.plan, "x-by": [by | some by in ["plan", "addon", "trial"]; by in entitled]}} if {
	count(entitled) > 0
}
