# Decisions of a developer portal: allowed, denied, or allowed where conditions hold that the portal itself checks.
package portal.rbac

import rego.v1

permission := input.parsed_body.permission

claims := input.principal.claims.ent

is_admin if "group:default/admins" in claims

is_guest if claims == []

default decision := {"allowed": false, "reason": "no rule"}

decision := {"allowed": true, "reason": "admin"} if {
	is_admin
} else := {"allowed": false, "reason": "guest", "http_status": 404} if {
	is_guest
	permission.attributes.action != "read"
} else := conditional("catalog", permission.resourceType, {"anyOf": [owned, public]}) if {
	startswith(permission.name, "catalog.entity.")
	permission.attributes.action in {"read", "update"}
} else := {"allowed": true, "reason": "read"} if {
	permission.attributes.action == "read"
	not permission.name in data.restricted
}

owned := {"rule": "IS_ENTITY_OWNER", "params": {"claims": claims}}

public := {"rule": "HAS_LABEL", "params": {"label": "public"}}

conditional(plugin, type, conditions) := {
	"allowed": true,
	"dynamic_metadata": {"result": "CONDITIONAL", "plugin": plugin, "type": type, "conditions": conditions},
}
