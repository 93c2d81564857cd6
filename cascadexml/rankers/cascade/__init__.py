"""CascadeXML itself: encoder, network, heads, starts of classifier rows."""
