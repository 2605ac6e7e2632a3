//! The records that the specification's tests need, with full names.

use std::time::Duration;

/// The time to live of every record.
pub(super) const TTL: Duration = Duration::from_secs(86400);

/// The host that most records name.
const LOCALHOST: &str = "localhost.test.build.10gen.cc";

/// SRV records: name, port and target. There is no test4, on purpose.
pub(super) const SRV: &[(&str, (u16, &str))] = &[
    (
        "_mongodb._tcp.test1.test.build.10gen.cc",
        (27017, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test1.test.build.10gen.cc",
        (27018, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test2.test.build.10gen.cc",
        (27018, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test2.test.build.10gen.cc",
        (27019, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test3.test.build.10gen.cc",
        (27017, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test5.test.build.10gen.cc",
        (27017, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test6.test.build.10gen.cc",
        (27017, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test7.test.build.10gen.cc",
        (27017, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test8.test.build.10gen.cc",
        (27017, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test10.test.build.10gen.cc",
        (27017, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test11.test.build.10gen.cc",
        (27017, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test12.test.build.10gen.cc",
        (27017, "localhost.build.10gen.cc"),
    ),
    (
        "_mongodb._tcp.test13.test.build.10gen.cc",
        (27017, "test.build.10gen.cc"),
    ),
    (
        "_mongodb._tcp.test14.test.build.10gen.cc",
        (27017, "localhost.not-test.build.10gen.cc"),
    ),
    (
        "_mongodb._tcp.test15.test.build.10gen.cc",
        (27017, "localhost.test.not-build.10gen.cc"),
    ),
    (
        "_mongodb._tcp.test16.test.build.10gen.cc",
        (27017, "localhost.test.build.not-10gen.cc"),
    ),
    (
        "_mongodb._tcp.test17.test.build.10gen.cc",
        (27017, "localhost.test.build.10gen.not-cc"),
    ),
    (
        "_mongodb._tcp.test18.test.build.10gen.cc",
        (27017, "localhost.sub.test.build.10gen.cc"),
    ),
    (
        "_mongodb._tcp.test19.test.build.10gen.cc",
        (27017, "localhost.evil.build.10gen.cc"),
    ),
    (
        "_mongodb._tcp.test19.test.build.10gen.cc",
        (27017, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test20.test.build.10gen.cc",
        (27017, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test21.test.build.10gen.cc",
        (27017, LOCALHOST),
    ),
    (
        "_customname._tcp.test22.test.build.10gen.cc",
        (27017, LOCALHOST),
    ),
    // Upstream's list lacks this record, which one test expects among the seeds.
    (
        "_customname._tcp.test22.test.build.10gen.cc",
        (27018, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test23.test.build.10gen.cc",
        (8000, LOCALHOST),
    ),
    (
        "_mongodb._tcp.test24.test.build.10gen.cc",
        (8000, LOCALHOST),
    ),
];

/// TXT records: name, and the strings of one record.
pub(super) const TXT: &[(&str, &[&str])] = &[
    (
        "test5.test.build.10gen.cc",
        &["replicaSet=repl0&authSource=thisDB"],
    ),
    ("test6.test.build.10gen.cc", &["replicaSet=repl0"]),
    ("test6.test.build.10gen.cc", &["authSource=otherDB"]),
    ("test7.test.build.10gen.cc", &["ssl=false"]),
    ("test8.test.build.10gen.cc", &["authSource"]),
    ("test10.test.build.10gen.cc", &["socketTimeoutMS=500"]),
    ("test11.test.build.10gen.cc", &["replicaS", "et=rep", "l0"]),
    ("test20.test.build.10gen.cc", &["loadBalanced=true"]),
    ("test21.test.build.10gen.cc", &["loadBalanced=false"]),
    ("test24.test.build.10gen.cc", &["loadBalanced=true"]),
];
