"""Reads and writes through PyMongo: `roundtrip.py DATABASE`.

The environment variable `CASES` has lines `URI works` and `URI wrong-password`: an argument would be in the list of
processes.

Exits with 0 on success, and with a traceback otherwise.
"""

import os
import sys

from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError, OperationFailure


def works(client: MongoClient, database: str) -> None:
    assert client.admin.command("ping")["ok"] == 1
    assert client.server_info()["versionArray"][0] >= 4
    collection = client[database]["numbers"]
    collection.drop()

    inserted = collection.insert_many([{"_id": n, "even": n % 2 == 0} for n in range(250)])
    assert len(inserted.inserted_ids) == 250
    assert [document["_id"] for document in collection.find(batch_size=60)] == list(range(250))
    assert collection.find_one({"_id": 77}) == {"_id": 77, "even": False}
    assert sum(1 for _ in collection.find({"_id": {"$gt": 199}, "even": True})) == 25
    assert [d["_id"] for d in collection.find().sort("_id", -1).limit(2)] == [249, 248]
    assert collection.count_documents({"_id": {"$in": [1, 2, 999]}}) == 2

    try:
        collection.insert_one({"_id": 1})
    except DuplicateKeyError as error:
        assert error.code == 11000
    else:
        raise AssertionError("a second document of the same _id")

    assert collection.update_one({"_id": 3}, {"$set": {"x": 1}}).modified_count == 1
    assert collection.update_many({"even": True}, {"$inc": {"n": 2}}).modified_count == 125
    assert collection.find_one({"_id": 4})["n"] == 2
    assert collection.update_one({"_id": 1000}, {"$set": {"x": 1}}, upsert=True).upserted_id == 1000
    assert collection.delete_one({"_id": 3}).deleted_count == 1
    assert collection.delete_many({"even": True}).deleted_count == 125
    assert collection.estimated_document_count() == 125

    assert database in client.list_database_names()
    assert "numbers" in client[database].list_collection_names()
    collection.drop()


def wrong_password(client: MongoClient, database: str) -> None:
    try:
        client[database]["numbers"].insert_one({})
    except OperationFailure as error:
        assert error.code == 18, error.details
    else:
        raise AssertionError("a wrong password was good enough")


def main() -> None:
    (database,) = sys.argv[1:]
    for case in os.environ["CASES"].splitlines():
        uri, expectation = case.rsplit(" ", 1)
        print(uri.rpartition("@")[2], expectation, file=sys.stderr)
        run = {"works": works, "wrong-password": wrong_password}[expectation]
        with MongoClient(uri, appname="kit-pymongo", serverSelectionTimeoutMS=10_000) as client:
            run(client, database)


main()
