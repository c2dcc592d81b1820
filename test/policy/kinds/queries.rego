# A query that is narrowed before it goes on.
package kinds.queries

default allow := false

allow := {
	"allowed": true,
	"query_parameters_to_set": set,
	"query_parameters_to_remove": [name | some name, _ in input.parsed_query; startswith(name, "debug")],
} if {
	every name, values in input.parsed_query {
		count(values) <= 2
		strings.any_prefix_match(name, ["q", "page", "debug", "é"])
	}
}

set := {"limit": format_int(min([100, wanted]), 10), "tenant": [input.principal.tenant]}

wanted := to_number(input.parsed_query.page[0]) * 10 if regex.match(`^[0-9]{1,4}$`, input.parsed_query.page[0])

wanted := 50 if not input.parsed_query.page

wanted := 10 if {
	page := input.parsed_query.page[0]
	not regex.match(`^[0-9]{1,4}$`, page)
}
