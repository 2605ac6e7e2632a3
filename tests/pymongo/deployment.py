"""Checks of a deployment with PyMongo: `deployment.py CHECK URI [ARGUMENT ...]`.

Exits with 0 on success, and with a traceback otherwise.
"""

import sys
import time
from collections.abc import Callable

from pymongo import MongoClient, ReadPreference

# The time limit of a single wait.
BOUND = 10


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < end, f"not within {BOUND} s: {what}"
        time.sleep(0.01)


def addresses(pairs: set[tuple[str, int]]) -> set[str]:
    return {f"{host}:{port}" for host, port in pairs}


def types(client: MongoClient) -> dict[str, str]:
    servers = client.topology_description.server_descriptions()
    return {f"{host}:{port}": server.server_type_name for (host, port), server in servers.items()}


def discover(client: MongoClient, topology: str, *expected: str) -> None:
    """The topology's type and each server as `address=type`."""
    wanted = dict(one.split("=") for one in expected)
    wait_until(f"{topology} {wanted}, but {client.topology_description}", lambda: types(client) == wanted)
    assert client.topology_description.topology_type_name == topology, client.topology_description
    names = {"RSPrimary", "RSSecondary", "RSArbiter", "Mongos", "Standalone", "LoadBalancer"}
    assert set(wanted.values()) <= names, wanted


def read_and_write(client: MongoClient) -> None:
    collection = client["kit"]["numbers"]
    collection.insert_many([{"_id": n} for n in range(250)])
    assert [one["_id"] for one in collection.find(batch_size=60)] == list(range(250))
    assert collection.update_many({}, {"$set": {"x": 1}}).modified_count == 250
    assert collection.count_documents({"x": 1}) == 250
    collection.drop()


def read(client: MongoClient) -> None:
    """Reads with the preference of the URI, once all members are known: before that, others may serve."""
    wait_until("all servers are known", lambda: "Unknown" not in types(client).values())
    for _ in range(5):
        assert client["kit"]["numbers"].find_one({"_id": 1}) == {"_id": 1}


def fail_over(client: MongoClient, old: str, new: str) -> None:
    """Another client makes the primary step down, so that this one has to notice by itself."""
    collection = client["kit"]["numbers"]
    collection.insert_one({"_id": "before"})
    assert addresses({client.primary}) == {old}
    with MongoClient(f"mongodb://{old}/?directConnection=true") as other:
        other.admin.command("replSetStepDown", 60)
    start = time.monotonic()
    wait_until(f"{new} is primary", lambda: client.primary and addresses({client.primary}) == {new})
    # Far less than a heartbeat's 10 s: the change was streamed.
    assert time.monotonic() - start < 5
    collection.insert_one({"_id": "after"})
    secondary = collection.with_options(read_preference=ReadPreference.SECONDARY)
    assert secondary.find_one({"_id": "after"}) is not None


def retry(client: MongoClient, old: str) -> None:
    """A write to a former primary is retried on the next one."""
    collection = client["kit"]["numbers"]
    collection.insert_one({"_id": 1})
    with MongoClient(f"mongodb://{old}/?directConnection=true") as other:
        other.admin.command("replSetStepDown", 60)
        for number in range(2, 20):
            collection.insert_one({"_id": number})
    assert collection.count_documents({}) == 19


def fail_point(client: MongoClient) -> None:
    """A write that fails once by the server's fail point is retried and executed once."""
    collection = client["kit"]["numbers"]
    collection.insert_one({"_id": 0})
    for number, fault in enumerate(({"closeConnection": True}, {"errorCode": 91}, {"errorCode": 10107}), 1):
        data = {"failCommands": ["insert"], "appName": "kit-pymongo", **fault}
        client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)
        collection.insert_one({"_id": number})
    found = client.admin.command("configureFailPoint", "failCommand", mode="off")
    assert found["count"] == 3, found
    assert collection.count_documents({}) == 4


CHECKS = {
    "discover": discover,
    "read-and-write": read_and_write,
    "read": read,
    "fail-over": fail_over,
    "retry": retry,
    "fail-point": fail_point,
}


def main() -> None:
    check, uri, *arguments = sys.argv[1:]
    with MongoClient(uri, appname="kit-pymongo", serverSelectionTimeoutMS=BOUND * 1000) as client:
        CHECKS[check](client, *arguments)


main()
