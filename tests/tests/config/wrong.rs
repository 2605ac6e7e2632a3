//! Configurations that are refused, and at the edge.

/// Invalid parts of a file, and what the error names.
pub(crate) const WRONG: &[(&str, &[&str])] = &[
    ("mongo.pools = 5", &["mongo.pools"]),
    ("mongo.pools.max_connections = 5", &["`max_connections`"]),
    (
        "mongo.pools.max_connections_per_server = -1",
        &["max_connections_per_server"],
    ),
    (
        "mongo.pools.max_connections_per_server = 4294967296",
        &["max_connections_per_server"],
    ),
    (
        "mongo.pools.max_connections_per_server = \"many\"",
        &["max_connections_per_server"],
    ),
    (
        "mongo.pools.max_connections_per_server = []",
        &["max_connections_per_server"],
    ),
    (
        "mongo.pools.unused_timeout = \"5 parsecs\"",
        &["unused_timeout"],
    ),
    ("mongo.pools.unused_timeout = \"-5s\"", &["unused_timeout"]),
    ("mongo.pools.unused_timeout = \"\"", &["unused_timeout"]),
    (
        "mongo.pools.unused_timeout = \"99999999999999999999s\"",
        &["unused_timeout"],
    ),
    (
        "mongo.pools.maintenance_interval = 10",
        &["maintenance_interval"],
    ),
    (
        "mongo.pools.maintenance_interval = 1.5",
        &["maintenance_interval", "a number with a fraction"],
    ),
    (
        "mongo.pools.maintenance_interval = true",
        &["maintenance_interval", "a boolean"],
    ),
    ("mongo.pools.wait_timeout = {}", &["wait_timeout", "secs"]),
    ("mongo.pools.wait_timeout = []", &["wait_timeout"]),
    (
        "mongo.pools.wait_timeout.minutes = 5",
        &["wait_timeout", "minutes"],
    ),
    (
        "mongo.pools.close_timeout.secs = -1",
        &["close_timeout", "secs"],
    ),
    (
        "mongo.pools.close_timeout.nanos = 4294967296",
        &["close_timeout", "nanos"],
    ),
    ("mongo.pool = \"large\"", &["mongo.pool"]),
    ("mongo.pool.max_size = -1", &["max_size"]),
    ("mongo.pool.max_size = {}", &["max_size"]),
    ("mongo.pool.min_size = 1", &["`min_size`"]),
    (
        "mongo.pool.queue_mode = \"Random\"",
        &["queue_mode", "Fifo, Lifo"],
    ),
    ("mongo.pool.timeouts.connect = \"5s\"", &["`connect`"]),
    (
        "mongo.pool.timeouts.create = \"soon\"",
        &["pool.timeouts.create"],
    ),
    ("mongo.manager.max_lifetime = \"-5s\"", &["max_lifetime"]),
    ("mongo.manager.max_life = \"5s\"", &["`max_life`"]),
    (
        "mongo.manager.recycling_method = { VerifiedAfter = \"soon\" }",
        &["recycling_method.verified_after"],
    ),
    (
        "mongo.server_api.version = \"2\"",
        &["server_api.version", "one of 1"],
    ),
    ("mongo.options.minPoolSize = -1", &["minPoolSize"]),
    ("mongo.options.minPoolSize = \"few\"", &["minPoolSize"]),
    ("mongo.options.maxPoolSize = 4294967296", &["maxPoolSize"]),
    ("mongo.options.maxConnecting = 0", &["maxConnecting"]),
    ("mongo.options.maxIdleTime = 5", &["maxIdleTime"]),
    ("mongo.options.maxPoolSise = 5", &["maxPoolSise"]),
    (
        "mongo.options = { minPoolSize = 5, maxPoolSize = 3 }",
        &["minPoolSize"],
    ),
];

/// Files with contradictory parts, and a part of the error.
pub(crate) const CONTRADICTING: &[(&str, &str)] = &[
    (
        "mongo.url = \"mongodb://localhost/?minPoolSize=5&maxPoolSize=3\"",
        "minPoolSize",
    ),
    (
        "mongo.url = \"mongodb://localhost/?minPoolSize=20\"\nmongo.pool.max_size = 10",
        "minPoolSize is 20, over the pool's largest size of 10",
    ),
    (
        "mongo.url = \"mongodb://localhost/?minPoolSize=20\"\n\
         mongo.pools.max_connections_per_server = 10",
        "minPoolSize is 20, over `max_connections_per_server`, which is 10",
    ),
    (
        "mongo.pools.max_connections_per_server = 0",
        "max_connections_per_server",
    ),
    ("mongo.pool.max_size = 0", "max_size"),
    ("mongo.pool.max_size = 100001", "max_size"),
    (
        "mongo.url = \"mongodb://localhost/?maxPoolSize=100001\"",
        "100001",
    ),
    ("mongo.pools.wait_timeout = \"0s\"", "wait time-out"),
    ("mongo.pool.timeouts.wait = \"0s\"", "wait"),
    (
        "mongo.url = \"mongodb://localhost\"\nmongo.options.maxPoolSize = 5",
        "both",
    ),
];

/// Files with boundary values.
pub(crate) const AT_THE_EDGE: &[&str] = &[
    "mongo.url = \"mongodb://localhost/?minPoolSize=3&maxPoolSize=3\"",
    "mongo.url = \"mongodb://localhost/?minPoolSize=3&maxPoolSize=0\"",
    "mongo.pool.max_size = 1",
    "mongo.pools.max_connections_per_server = 1",
    "mongo.pools.max_connections_per_server = 4294967295",
    "mongo.pools = { unused_timeout = \"0s\", maintenance_interval = \"0s\" }",
    "mongo.pools = { wait_timeout = \"1ms\", close_timeout = { secs = 0 } }",
    "mongo.pools.wait_timeout = { secs = 9223372036854775807, nanos = 4294967295 }",
];
