"""The broker lab: real Kafka, NATS, Pulsar, Redis and PostgreSQL servers on loopback, without containers.

For tests (`tests.lab.plugin` has the fixtures) and for the command line (``python -m tests.lab``).
`tests.lab.lab` says which brokers there are; a `Broker` is one of them with its data directory;
a `Proxy` stands between it and its clients and spoils the network.

Programs and jars come from the package registries through their ordinary clients (Maven, Go, apt) and are kept
in ``${XDG_CACHE_HOME:-~/.cache}/hexa-worker``.
"""
