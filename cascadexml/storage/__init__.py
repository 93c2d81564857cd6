"""Where bytes come from: addresses, HTTP, S3, archives."""
