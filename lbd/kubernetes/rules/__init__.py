"""L4Rules: judged, remembered, in force. Pure."""
