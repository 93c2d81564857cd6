"""The services of one machine: an S3 store, a Prefect server, a report server and a worker, all on 127.0.0.1."""
