"""MQTT to rows: bytes in, one transaction a batch, a signed receipt out after its commit."""
