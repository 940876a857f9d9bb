"""The HTTP gateway: records of services in any language, checked, durable, each with its answer."""
