"""Domain types to protobuf messages and back: pure conversions that client, router and stages share."""
