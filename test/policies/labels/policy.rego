# A constraint with parameters, in the syntax before OPA 1.0: labels that must be there, and what their values look like.
package requiredlabels

violation[{"msg": msg, "details": {"missing": missing}}] {
	provided := {label | input.parsed_body.metadata.labels[label]}
	required := {label | label := data.parameters.labels[_].key}
	missing := required - provided
	count(missing) > 0
	msg := sprintf("%d labels are missing", [count(missing)])
}

violation[{"msg": msg, "details": {}}] {
	value := input.parsed_body.metadata.labels[key]
	expected := data.parameters.labels[_]
	expected.key == key
	expected.allowedRegex != ""
	not re_match(expected.allowedRegex, value)
	msg := sprintf("label %v has the value %v", [key, value])
}

decision = {"allowed": true} {
	input.parsed_body.metadata
	count(violation) == 0
}

decision = {"allowed": false, "http_status": 422, "reason": sprintf("%d violations", [count(violation)])} {
	count(violation) > 0
}
