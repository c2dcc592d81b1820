# Paths by pattern.
package kinds.globs

default allow := false

allow if {
	some rule in data.paths[input.attributes.request.http.method]
	glob.match(rule, ["/"], path)
	not excluded
}

excluded if {
	some rule in data.except
	glob.match(rule, [], path)
}

path := split(input.attributes.request.http.path, "?")[0]
