# Headers set, added and removed; a redirect for who is not known.
package kinds.headers

default allow := {
	"allowed": false,
	"http_status": 302,
	"headers": {"location": "https://login.example/"},
}

allow := {
	"allowed": true,
	"headers": {"x-user": lower(user), "x-groups": sort(groups)},
	"request_headers_to_remove": [name |
		some name, _ in input.attributes.request.http.headers
		startswith(name, "x-internal-")
	],
	"response_headers_to_add": [{"x-request-id": input.attributes.request.http.id}, {"x-count": format_int(count(groups), 10)}],
	"dynamic_metadata": {"groups": groups},
} if {
	user != ""
}

user := object.get(input.attributes.request.http.headers, "x-name", "")

groups := {group |
	some value in object.get(input.header_values, "x-group", [])
	some raw in split(value, ",")
	group := trim_space(raw)
	regex.match(`^[a-z]+$`, group)
}
