package gate.authz_test

import data.gate.authz

request(method, path, roles) := {
	"attributes": {"request": {"http": {"method": method}}},
	"parsed_path": path,
	"route": {"name": "orders", "labels": {}},
	"principal": {"subject": "alice", "claims": {"roles": roles}},
}

test_a_clerk_reads_orders if {
	authz.decision == {"allowed": true, "reason": "role clerk"} with input as request("GET", ["orders", "7"], ["clerk"])
}

test_a_clerk_does_not_write_orders if {
	not authz.decision.allowed with input as request("POST", ["orders"], ["clerk"])
}

test_a_manager_writes_orders if {
	authz.decision.allowed with input as request("POST", ["orders"], ["manager"])
}

test_a_longer_segment_is_another_resource if {
	not authz.decision.allowed with input as request("GET", ["orders-archive"], ["clerk"])
}

test_several_roles_give_one_answer if {
	authz.decision.allowed with input as request("GET", ["orders"], ["clerk", "manager"])
}

test_no_role_no_access if {
	authz.decision == {"allowed": false, "reason": "no role grants this"} with input as request("GET", ["orders"], [])
}

test_an_empty_caller_is_denied if {
	not authz.decision.allowed with input as {}
}

public(method) := {
	"attributes": {"request": {"http": {"method": method}}},
	"parsed_path": ["public"],
	"route": {"name": "public", "labels": {"visibility": "public"}},
}

test_anyone_reads_a_public_route if {
	authz.decision.allowed with input as public("GET")
}

test_nobody_writes_a_public_route if {
	not authz.decision.allowed with input as public("POST")
}
