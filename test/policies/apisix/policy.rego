# A denial with its own status, header and text, as the plugin of an API gateway asks for it.
package example

default allow = false

allow {
	read
	not forbidden
}

read {
	allowed_methods[_] == input.attributes.request.http.method
}

allowed_methods = ["GET", "HEAD"]

forbidden {
	input.parsed_query.test[_] == "abcd"
}

forbidden {
	re_match("^(curl|wget)/", input.attributes.request.http.headers["user-agent"])
}

forbidden {
	consumer := input.attributes.request.http.headers["x-consumer"]
	data.consumers[consumer].plan == "free"
	count(input.parsed_path) > 2
}

status_code = 429 {
	forbidden
}

status_code = 405 {
	not read
	not forbidden
}

headers = {"x-reason": reason}

reason = "forbidden" {
	forbidden
} else = "method" {
	not read
} else = "none"

decision {
	allow
}

decision = {"allowed": false, "http_status": status_code, "headers": headers, "body": reason} {
	not allow
}
