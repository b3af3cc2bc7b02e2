-- The store, newest version. Times are seconds since the epoch, UTC.
--
-- A value lives as JSON in one column; beside it stand only the columns that a query needs. Those are written
-- from the value in the same statement, so the two cannot disagree.

-- What an executor accepted. `seq` is the order of acceptance.
CREATE TABLE runs (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL UNIQUE,
    repository   TEXT NOT NULL,
    commit_id    TEXT NOT NULL,
    ref          TEXT NOT NULL,
    job          TEXT NOT NULL,
    request      TEXT NOT NULL,
    gpus         INTEGER NOT NULL,           -- how many it asks for
    gpu_memory   INTEGER NOT NULL,
    max_parallel INTEGER,
    state        TEXT NOT NULL,
    not_before   REAL NOT NULL,
    command      TEXT NOT NULL,              -- TrainCommand; another one only when a moved run comes back
    value        TEXT NOT NULL,              -- Run without its command
    gpu_capability INTEGER NOT NULL DEFAULT 0,  -- 100 times the major number and the minor one
    gpu_share    INTEGER NOT NULL DEFAULT 0,
    sender       TEXT NOT NULL DEFAULT '',   -- fingerprint of the key
    rank         REAL NOT NULL DEFAULT 0     -- its place in the order of turns: when it came, less its priority
) STRICT;
CREATE INDEX runs_queued ON runs (sender, repository, gpus > 0, rank, seq, not_before) WHERE state = 'queued';
CREATE INDEX runs_active ON runs (seq) WHERE state IN ('preparing', 'running');
CREATE INDEX runs_publishing ON runs (not_before, seq) WHERE state = 'publishing';
CREATE INDEX runs_later ON runs (not_before) WHERE state = 'queued' AND not_before > 0;
CREATE INDEX runs_state ON runs (state, seq);
CREATE INDEX runs_repository ON runs (repository, seq);
CREATE INDEX runs_commit ON runs (commit_id, seq);
CREATE INDEX runs_again ON runs (commit_id, seq) WHERE request <> '';  -- asked for by hand
CREATE INDEX runs_ref ON runs (ref, seq);
CREATE INDEX runs_job ON runs (job, seq);

-- How many runs are in each state, kept by triggers: the queue's limit is checked at every acceptance, and
-- counting ten thousand rows each time would cost more than the acceptance itself.
CREATE TABLE tally (
    state TEXT PRIMARY KEY,
    runs  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER tally_insert AFTER INSERT ON runs BEGIN
    INSERT INTO tally VALUES (NEW.state, 1) ON CONFLICT (state) DO UPDATE SET runs = runs + 1;
END;
CREATE TRIGGER tally_update AFTER UPDATE OF state ON runs WHEN OLD.state <> NEW.state BEGIN
    UPDATE tally SET runs = runs - 1 WHERE state = OLD.state;
    INSERT INTO tally VALUES (NEW.state, 1) ON CONFLICT (state) DO UPDATE SET runs = runs + 1;
END;

-- The signed command, byte for byte as it came.
CREATE TABLE received (
    run_id  TEXT PRIMARY KEY REFERENCES runs (id),
    raw     BLOB NOT NULL,
    headers TEXT NOT NULL
) STRICT;

-- Commands of other keys for a run that waits or is active: whose it becomes when its own key lets go of it.
CREATE TABLE asked (
    run_id  TEXT NOT NULL REFERENCES runs (id),
    sender  TEXT NOT NULL,
    command TEXT NOT NULL,
    raw     BLOB NOT NULL,
    headers TEXT NOT NULL,
    PRIMARY KEY (run_id, sender)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
    run_id TEXT NOT NULL REFERENCES runs (id),
    number INTEGER NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, number)
) STRICT, WITHOUT ROWID;

-- Append-only; sequence counts from 1 without gaps for each run.
CREATE TABLE events (
    run_id   TEXT NOT NULL REFERENCES runs (id),
    sequence INTEGER NOT NULL,
    time     REAL NOT NULL,
    kind     TEXT NOT NULL,
    state    TEXT NOT NULL,
    detail   TEXT NOT NULL,
    PRIMARY KEY (run_id, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifacts (
    run_id TEXT NOT NULL REFERENCES runs (id),
    path   TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, path)
) STRICT, WITHOUT ROWID;

-- What a Git host was last told of a run as a commit status; `settled`: there is no more to tell.
CREATE TABLE statuses (
    run_id  TEXT PRIMARY KEY REFERENCES runs (id),
    told    TEXT NOT NULL,
    settled INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Nonces of signed writes, kept until the signature they came with has expired.
CREATE TABLE nonces (
    nonce   TEXT PRIMARY KEY,
    expires REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX nonces_expires ON nonces (expires);

-- What a sender heard of. `note` is empty until the push is settled, then says what came of it.
CREATE TABLE pushes (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    host        TEXT NOT NULL,
    delivery    TEXT NOT NULL,
    source      TEXT NOT NULL,
    repository  TEXT NOT NULL,
    received_at REAL NOT NULL,
    settled_at  REAL,
    note        TEXT NOT NULL DEFAULT '',
    value       TEXT NOT NULL,
    UNIQUE (host, delivery)
) STRICT;
CREATE INDEX pushes_pending ON pushes (id) WHERE settled_at IS NULL;

-- What a sender must deliver, is delivering, or has delivered.
CREATE TABLE outbox (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id     TEXT NOT NULL UNIQUE,
    push_id    INTEGER REFERENCES pushes (id),
    state      TEXT NOT NULL,                -- waiting, delivered, recalling, started, refused, cancelled
    executor   TEXT NOT NULL DEFAULT '',     -- its key's fingerprint, written before the first byte goes there
    tries      INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    detail     TEXT NOT NULL DEFAULT '',
    command    TEXT NOT NULL,
    placed_at  REAL NOT NULL DEFAULT 0,      -- when it was first sent to that executor, or recalled and not answered
    accepted_at REAL NOT NULL DEFAULT 0      -- by that executor's clock
) STRICT;
CREATE INDEX outbox_there ON outbox (executor, state) WHERE state IN ('delivered', 'recalling');
CREATE INDEX outbox_due ON outbox (not_before, seq) WHERE state = 'waiting';

-- Where each watched ref was when the reconciler last looked.
CREATE TABLE tips (
    repository TEXT NOT NULL,
    ref        TEXT NOT NULL,
    commit_id  TEXT NOT NULL,
    PRIMARY KEY (repository, ref)
) STRICT, WITHOUT ROWID;

-- The highest number seen on a card of each executor; an older card is not believed any more.
CREATE TABLE cards (
    fingerprint TEXT PRIMARY KEY,
    sequence    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How many transactions this file has seen; the same number stands outside, to notice a lost journal.
CREATE TABLE transactions (count INTEGER NOT NULL) STRICT;
INSERT INTO transactions VALUES (0);

-- Who used how much, by the day (since the epoch, UTC) on which attempts ended. It outlives the runs.
CREATE TABLE usage (
    day         INTEGER NOT NULL,
    sender      TEXT NOT NULL,
    repository  TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    seconds     REAL NOT NULL,
    gpu_seconds REAL NOT NULL,
    cpu_seconds REAL NOT NULL,
    joules      REAL NOT NULL,
    estimated   INTEGER NOT NULL,               -- how many attempts' energy is power times time
    waited      REAL NOT NULL,
    PRIMARY KEY (day, sender, repository)
) STRICT, WITHOUT ROWID;

-- What the cards did, by the day: lent, free, or why their owner kept them; `wanted`: while runs waited.
CREATE TABLE stood (
    day     INTEGER NOT NULL,
    what    TEXT NOT NULL,
    seconds REAL NOT NULL,
    wanted  REAL NOT NULL,
    PRIMARY KEY (day, what)
) STRICT, WITHOUT ROWID;
