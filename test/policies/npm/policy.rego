# A registry of packages: who may read, publish and deprecate, and which versions.
package registry.npm

default decision := {"allowed": false, "reason": "no rule"}

method := input.attributes.request.http.method

subject := input.principal.subject

name := input.parsed_path[0] if not startswith(input.parsed_path[0], "@")

name := concat("/", [input.parsed_path[0], input.parsed_path[1]]) if startswith(input.parsed_path[0], "@")

scope := split(name, "/")[0] if startswith(name, "@")

package_ := data.packages[name]

decision := {"allowed": true, "reason": "public"} if {
	method in {"GET", "HEAD"}
	not package_.private
} else := {"allowed": true, "reason": "team"} if {
	method in {"GET", "HEAD"}
	package_.private
	member
} else := {"allowed": true, "reason": sprintf("publish %s@%s", [name, version])} if {
	method == "PUT"
	member
	semver.is_valid(version)
	newer
	not reserved
} else := {"allowed": false, "http_status": 409, "reason": "not newer"} if {
	method == "PUT"
	member
	semver.is_valid(version)
	not newer
} else := {"allowed": true, "reason": "owner"} if {
	method == "DELETE"
	data.teams[scope].owner == subject
}

version := input.parsed_body.version

member if subject in data.teams[scope].members

member if {
	not scope
	subject in package_.maintainers
}

newer if not package_

newer if {
	every published in package_.versions {
		semver.compare(version, published) == 1
	}
}

reserved if {
	some pattern in data.reserved
	glob.match(pattern, ["/"], name)
}
