# Admission of pods, in the syntax before OPA 1.0: reasons to deny, and a rule that counts them.
package kubernetes.admission

request := input.parsed_body.request

pod {
	request.kind.kind == "Pod"
}

containers[container] {
	container := request.object.spec.containers[_]
}

containers[container] {
	container := request.object.spec.initContainers[_]
}

deny[msg] {
	pod
	container := containers[_]
	not trusted(container.image)
	msg := sprintf("image '%v' comes from an untrusted registry", [container.image])
}

deny[msg] {
	pod
	container := containers[_]
	container.securityContext.privileged
	not exempt
	msg := sprintf("container %v is privileged", [container.name])
}

deny["no limit of memory"] {
	pod
	container := containers[_]
	not container.resources.limits.memory
}

deny["too much memory"] {
	pod
	total := sum([bytes | bytes := units.parse_bytes(containers[_].resources.limits.memory)])
	total > units.parse_bytes("4Gi")
}

deny["no team"] {
	request.operation == "CREATE"
	not request.object.metadata.labels.team
	not exempt
}

trusted(image) {
	startswith(image, data.registries[_])
	not endswith(image, ":latest")
}

exempt {
	data.exempt[_] == request.namespace
}

decision {
	request.uid
	count(deny) == 0
}
