"""GenDict of GenCo's algorithm 1, made durable: every completion of a language model, by what it was asked.

The key covers document, prompt, model, sampling and sample number: whatever changes the completion changes the key, and nothing else does. A cache is a folder or a
prefix of an object store, any number of processes use it at once, and none holds all of it.

    00000513-texts.parquet    the log: what one call of `add` committed (32 texts, in a run)
    manifest-00000002.json    which merged files count, and up to which number the log is in them
    merged/00000002-*.parquet the rest: up to 65,536 texts a file, sorted by the hash of the key

**Commit.** A block of the log is committed by creating the next free number, which one writer succeeds in (store.py: a hard link, or a conditional put). So a block
is there whole or not at all, and a killed run loses at most the block in flight. A writer that finds the number taken reads what is there, drops its completions for
keys that it finds, and tries the next. The first completion that is committed for a key counts, and a run reports what every later run reads. No lock is held.

**Merge.** From time to time the writer of a block merges the log (merging.py) and commits the next manifest in the same way; then it removes what the manifest
took up. A number that was free because its block is merged is no commit: after it has created a block, a writer looks for a newer manifest. A reader that misses
a file looks for the newest manifest and asks again. Merges change no text, so that nobody has to wait for them.

**Lookup.** A key is hashed to 64 bits. The manifest gives the hash range of each file; a file's hashes are read once, when the first key falls into its range
(8 bytes a text in memory), and texts are read by row groups of at most 2,048. The full key decides.

**Promises.** On a local disk everything is synced before it counts. On NFS creating by a link is exact, and a listing that is old for a minute costs waiting and no
text. Object stores must have conditional puts and consistent listings: Amazon S3, Google Cloud Storage and what imitates them exactly.

    text_cache   what users call          completion   the row, its key and hash          store   folders and object stores
    contents     what is committed        block        one file, read in parts            manifest, merging
"""

from selftrain.texts.cache.completion import Completion, cache_key
from selftrain.texts.cache.store import cache_location, check_cache
from selftrain.texts.cache.text_cache import TextCache, broken_blocks

__all__ = ["Completion", "TextCache", "broken_blocks", "cache_key", "cache_location", "check_cache"]
