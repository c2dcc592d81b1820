# What an order may hold.
package kinds.body

default allow := false

allow if input.attributes.request.http.method in {"GET", "HEAD"}

allow if {
	input.attributes.request.http.method == "POST"
	order := input.parsed_body
	count(violations) == 0
	sum([cost |
		some item in order.items
		cost := item.price * item.count
	]) <= order.limit
}

violations contains "items" if not is_array(input.parsed_body.items)

violations contains sprintf("item %d", [i]) if {
	some i, item in input.parsed_body.items
	not good(item)
}

violations contains sprintf("field %s", [key]) if {
	some key, _ in input.parsed_body
	not key in {"items", "limit", "note"}
}

good(item) if {
	is_number(item.price)
	item.count > 0
	item.count == floor(item.count)
	json.match_schema(item, {"type": "object", "required": ["sku"], "properties": {"sku": {"type": "string"}}})[0]
}
