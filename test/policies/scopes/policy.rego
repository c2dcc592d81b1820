# OAuth scopes for operations of an API description; path templates, and an owner in the path.
package api.scopes

default allow := false

operation := found if {
	some found in data.operations
	found.method == input.attributes.request.http.method
	regex.match(found.path, split(input.attributes.request.http.path, "?")[0])
}

granted := {scope | some scope in input.principal.scopes} | {scope | some scope in split(object.get(input.principal.claims, "scope", ""), " ")}

missing := {scope | some scope in operation.scopes} - granted

allow if {
	operation
	count(missing) == 0
	owner_matches
}

owner_matches if not operation.owner

owner_matches if input.parsed_path[operation.owner] == input.principal.subject

owner_matches if "admin" in granted
