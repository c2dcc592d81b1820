# Topics with personal data are for consumers on a list; who produces to a topic owns it.
package kafka.authz

default allow := false

request := input.parsed_body

operation := request.action.operation

allow if {
	operation
	not deny
}

deny if {
	operation in {"READ", "FETCH"}
	topic_contains_pii
	not principal.name in data.allowlist.pii
}

deny if {
	operation == "WRITE"
	owners := data.topics[topic_name].owners
	not principal.name in owners
}

deny if {
	operation in {"CREATE", "DELETE", "ALTER"}
	principal.unit != "platform"
}

deny if count(violations) > 0

violations contains "pattern" if not regex.match(`^[a-z0-9]+(?:[._-][a-z0-9]+)*$`, topic_name)

violations contains "cluster" if {
	request.action.resourcePattern.resourceType == "CLUSTER"
	principal.unit != "platform"
}

topic_contains_pii if "pii" in data.topics[topic_name].tags

topic_name := request.action.resourcePattern.name

principal := {"name": split(parsed.CN, ".")[0], "unit": object.get(parsed, "OU", "none")} if {
	parsed := parse_user(urlquery.decode(request.requestContext.principal.name))
}

parse_user(user) := {key: value |
	some part in split(user, ",")
	[key, value] := split(trim_space(part), "=")
}
