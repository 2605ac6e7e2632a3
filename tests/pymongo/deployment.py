"""Checks of a deployment with PyMongo: `deployment.py CHECK URI [ARGUMENT ...]`.

Exits with 0 on success, and with a traceback otherwise.
"""

import sys
import time
from collections.abc import Callable

from pymongo import CursorType, MongoClient, ReadPreference, ReturnDocument
from pymongo.client_session import ClientSession

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


def transactions(client: MongoClient) -> None:
    """Transactions commit, abort, conflict, and are repeated; their writes are visible after the commit."""
    collection = client["kit"]["numbers"]
    collection.insert_many([{"_id": 1, "n": 100}, {"_id": 2, "n": 0}])

    def balances() -> list[int]:
        return [one["n"] for one in collection.find(sort=[("_id", 1)])]

    def transfer(session: ClientSession) -> None:
        collection.update_one({"_id": 1}, {"$inc": {"n": -30}}, session=session)
        collection.update_one({"_id": 2}, {"$inc": {"n": 30}}, session=session)
        assert [one["n"] for one in collection.find(sort=[("_id", 1)], session=session)] == [70, 30]
        assert balances() == [100, 0]

    with client.start_session() as session:
        session.with_transaction(transfer)
        assert balances() == [70, 30]
        session.commit_transaction()
        session.start_transaction()
        collection.insert_one({"_id": 3, "n": 5}, session=session)
        session.abort_transaction()
        assert balances() == [70, 30]

    attempts = 0

    def contested(session: ClientSession) -> None:
        nonlocal attempts
        attempts += 1
        collection.find_one({"_id": 1}, session=session)
        if attempts == 1:
            collection.update_one({"_id": 1}, {"$inc": {"n": 1}})
        collection.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)

    with client.start_session() as session:
        session.with_transaction(contested)
    assert attempts == 2 and balances() == [72, 30], (attempts, balances())

    with client.start_session() as session:
        error = {"code": 91, "errmsg": "by the fail point"}
        data = {"failCommands": ["commitTransaction"], "writeConcernError": error, "appName": "kit-pymongo"}
        with session.start_transaction():
            collection.insert_one({"_id": 4, "n": 1}, session=session)
            configure(client, session, {"times": 1}, data)
    assert balances() == [72, 30, 1]


def configure(client: MongoClient, session: ClientSession, mode: object, data: dict[str, object]) -> None:
    """Sets a fail point on the server to which a transaction is pinned, or else on the primary."""
    pinned = session._pinned_address
    uri = client_uri if pinned is None else f"mongodb://{pinned[0]}:{pinned[1]}/?directConnection=true"
    with MongoClient(uri) as other:
        other.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)


def causality(client: MongoClient) -> None:
    """A causally consistent session reads its own writes on secondaries; a lost session is not known."""
    collection = client["kit"]["numbers"]
    anywhere = collection.with_options(read_preference=ReadPreference.SECONDARY_PREFERRED)
    with client.start_session(causal_consistency=True) as session:
        last = None
        for number in range(5):
            collection.insert_one({"_id": number}, session=session)
            assert session.operation_time is not None
            assert last is None or session.operation_time > last, (last, session.operation_time)
            last = session.operation_time
            assert anywhere.find_one({"_id": number}, session=session) == {"_id": number}
        assert session.cluster_time["clusterTime"] >= last


def snapshot(client: MongoClient) -> None:
    """A snapshot session reads the documents as at its first read."""
    collection = client["kit"]["numbers"]
    collection.insert_one({"_id": 1, "n": 1})
    with client.start_session(snapshot=True) as session:
        for number in range(2, 5):
            assert collection.find_one({"_id": 1}, session=session)["n"] == 1
            assert collection.distinct("n", session=session) == [1]
            assert len(list(collection.aggregate([{"$match": {}}], session=session))) == 1
            collection.update_one({"_id": 1}, {"$inc": {"n": 1}})
            collection.insert_one({"_id": number})
        assert collection.find_one({"_id": 1})["n"] == 4


def cursors(client: MongoClient) -> None:
    """Cursors of small batches end, or are killed, with their sessions; a tailable one goes on."""
    collection = client["kit"]["numbers"]
    collection.insert_many([{"_id": n} for n in range(20)])
    cursor = collection.find(batch_size=3)
    assert [one["_id"] for one in cursor] == list(range(20))
    cursor = collection.aggregate([{"$match": {"_id": {"$gt": 4}}}], batchSize=4)
    assert len(list(cursor)) == 15
    early = collection.find(batch_size=2)
    next(early)
    early.close()
    capped = client["kit"].create_collection("capped", capped=True, size=4096)
    capped.insert_many([{"_id": 1}, {"_id": 2}])
    with capped.find(cursor_type=CursorType.TAILABLE_AWAIT).max_await_time_ms(50) as tail:
        assert [next(tail)["_id"], next(tail)["_id"]] == [1, 2]
        assert next(tail, None) is None
        capped.insert_one({"_id": 3})
        assert next(tail)["_id"] == 3
    assert sorted(client["kit"].list_collection_names()) == ["capped", "numbers"]
    assert [one["name"] for one in collection.list_indexes()] == ["_id_"]
    collection.create_index("x")
    assert "x_1" in collection.index_information()
    collection.drop_index("x_1")
    after = ReturnDocument.AFTER
    assert collection.find_one_and_update({"_id": 1}, {"$set": {"x": 5}}, return_document=after) == {"_id": 1, "x": 5}
    assert collection.distinct("x") == [5]


def lost_replies(client: MongoClient) -> None:
    """Writes whose connection is closed before or after their commit are executed once."""
    collection = client["kit"]["numbers"]
    collection.insert_one({"_id": 1, "n": 0})
    for number, data in enumerate(({}, {"failBeforeCommitExceptionCode": 1}), 1):
        client.admin.command("configureFailPoint", "onPrimaryTransactionalWrite", mode={"times": 1}, data=data)
        assert collection.update_one({"_id": 1}, {"$inc": {"n": 1}}).modified_count == 1
        assert collection.find_one({"_id": 1})["n"] == number


CHECKS = {
    "transactions": transactions,
    "causality": causality,
    "snapshot": snapshot,
    "cursors": cursors,
    "lost-replies": lost_replies,
    "discover": discover,
    "read-and-write": read_and_write,
    "read": read,
    "fail-over": fail_over,
    "retry": retry,
    "fail-point": fail_point,
}


client_uri = ""


def main() -> None:
    global client_uri
    check, uri, *arguments = sys.argv[1:]
    client_uri = uri
    with MongoClient(uri, appname="kit-pymongo", serverSelectionTimeoutMS=BOUND * 1000) as client:
        CHECKS[check](client, *arguments)


main()
