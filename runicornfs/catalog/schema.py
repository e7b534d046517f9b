"""The tables of index.db.

All of it can be synced again, so there are no migrations: another SCHEMA_VERSION means a new database. Paths and names
are BLOBs, as the server's file system has them.
"""

from __future__ import annotations

# Raised with every change below, and with every change of what is derived from the same sources.
SCHEMA_VERSION = 4

TABLES = (
    "documents",
    "manifests",
    "entries",
    "sources",
    "staged",
    "nodes",
    "artifacts",
    "versions",
    "aliases",
    "runs",
    "run_artifacts",
    "problems",
    "history",
    "meta",
)

SCHEMA = """
-- contents of the server's small JSON files, never changed: another content is another row
CREATE TABLE documents (id INTEGER PRIMARY KEY, content BLOB NOT NULL);

-- of each document that is a manifest: what it says as a whole; problems is a JSON list, refused says that it is none
CREATE TABLE manifests (
    document INTEGER PRIMARY KEY, files INTEGER NOT NULL, bytes INTEGER NOT NULL, entries INTEGER NOT NULL,
    newest_ns INTEGER, problems TEXT NOT NULL, refused TEXT
);

-- and the files and folders that it brings into being below `files`; folder is the number of the path below that
CREATE TABLE entries (
    manifest INTEGER NOT NULL, folder INTEGER NOT NULL, name BLOB NOT NULL, kind INTEGER NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest BLOB,
    PRIMARY KEY (manifest, folder, name)
) WITHOUT ROWID;

CREATE TRIGGER document_gone AFTER DELETE ON documents BEGIN
    DELETE FROM manifests WHERE document = OLD.id;
    DELETE FROM entries WHERE manifest = OLD.id;
END;

-- what the last applied sync knows of the server; kind is an ObservedKind
CREATE TABLE sources (
    path BLOB PRIMARY KEY, kind INTEGER NOT NULL, token BLOB NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, document INTEGER
) WITHOUT ROWID;

-- what was received since and is not applied; kind NULL: gone
CREATE TABLE staged (
    path BLOB PRIMARY KEY, kind INTEGER, token BLOB,
    size INTEGER, mtime_ns INTEGER, document INTEGER
) WITHOUT ROWID;

-- what the mount shows, but for what manifests bring into being: there the folder `files` has the manifest as document;
-- parent and unit are inode numbers of paths, unit is what the node is rebuilt with
CREATE TABLE nodes (
    inode INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL, kind INTEGER NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, document INTEGER, target TEXT, unit INTEGER NOT NULL
);
CREATE INDEX nodes_by_parent ON nodes (parent, name);
CREATE INDEX nodes_by_unit ON nodes (unit);
CREATE INDEX nodes_by_manifest ON nodes (document) WHERE kind = 0 AND document IS NOT NULL;

-- id is the inode number of the path
CREATE TABLE artifacts (
    id INTEGER PRIMARY KEY, type BLOB NOT NULL, name BLOB NOT NULL,
    created_at REAL NOT NULL, updated_at REAL NOT NULL, path BLOB NOT NULL
);
CREATE INDEX artifacts_by_name ON artifacts (name);

-- every version that the index names; shown: in the mount and in lists; deleted: softly (.deleted) or for good (status)
CREATE TABLE versions (
    artifact INTEGER NOT NULL, version INTEGER NOT NULL, created_at REAL NOT NULL, created_by_run TEXT,
    size_bytes INTEGER NOT NULL, num_files INTEGER NOT NULL, status TEXT NOT NULL,
    deleted INTEGER NOT NULL, shown INTEGER NOT NULL, metadata_document INTEGER, manifest_document INTEGER,
    PRIMARY KEY (artifact, version)
) WITHOUT ROWID;

-- the index's map of aliases, also those that cannot be links
CREATE TABLE aliases (
    artifact INTEGER NOT NULL, alias BLOB NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (artifact, alias)
) WITHOUT ROWID;

-- the run that a record of the version names, as bytes: runs are known by the names of their folders
CREATE INDEX versions_by_run ON versions (CAST(created_by_run AS BLOB));

-- every run, also those in the recycle bin (deleted); id is the inode number of its folder, run_id the folder's name
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL, run_id BLOB NOT NULL, project BLOB NOT NULL, name BLOB NOT NULL,
    created_at REAL NOT NULL, status TEXT NOT NULL, pid INTEGER, started_at REAL, ended_at REAL,
    best_metric_name TEXT, best_metric_value REAL, created_count INTEGER NOT NULL, used_count INTEGER NOT NULL,
    summary_document INTEGER, deleted INTEGER NOT NULL
);
CREATE INDEX runs_by_run_id ON runs (run_id);
CREATE INDEX runs_by_name ON runs (project, name);

-- the versions that a run says it created (1) or used (0); artifact is the inode number of the folder, there or not
CREATE TABLE run_artifacts (
    run INTEGER NOT NULL, created INTEGER NOT NULL, artifact INTEGER NOT NULL, version INTEGER NOT NULL,
    type BLOB NOT NULL, name BLOB NOT NULL, at REAL, size_bytes INTEGER,
    PRIMARY KEY (run, created, artifact, version)
) WITHOUT ROWID;
CREATE INDEX run_artifacts_by_version ON run_artifacts (artifact, version, created);

-- what of the store cannot be used; unit as in nodes, 0: the scan's own
CREATE TABLE problems (unit INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX problems_by_unit ON problems (unit);

-- what the last snapshots changed
CREATE TABLE history (generation INTEGER NOT NULL, path BLOB NOT NULL, PRIMARY KEY (generation, path)) WITHOUT ROWID;

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

INSERT INTO nodes (inode, parent, name, kind, size, mtime_ns, unit) VALUES (1, 0, x'', 0, 0, 0, 1);
"""
