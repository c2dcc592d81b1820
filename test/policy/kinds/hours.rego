# When something may be done.
package kinds.hours

default allow := {"allowed": false, "reason": "closed"}

now := time.parse_rfc3339_ns(input.attributes.request.time)

allow := {"allowed": true, "reason": reason} if {
	not weekend
	[hour, minute, _] := time.clock([now, data.zone])
	hour >= 8
	(hour * 60) + minute < (17 * 60) + 30
	reason := sprintf("%s %02d:%02d, %s", [time.weekday([now, data.zone]), hour, minute, time.format([now, data.zone, "2006-01-02"])])
}

allow := {"allowed": true, "reason": "release window"} if {
	weekend
	some window in data.windows
	now >= time.parse_rfc3339_ns(window.from)
	now < time.add_date(time.parse_rfc3339_ns(window.from), 0, 0, window.days)
}

weekend if time.weekday([now, data.zone]) in {"Saturday", "Sunday"}
