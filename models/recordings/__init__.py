"""Recordings in files of any origin: delimited text with or without a header, NumPy archives and Parquet.

What a file does not say about itself is found by looking, and can be said in RecordingOptions instead. A recording that
cannot be read raises BadRecording, with the line and with what to do.
"""

from models.recordings.arrays import PARQUET as PARQUET
from models.recordings.arrays import iter_parquet_blocks as iter_parquet_blocks
from models.recordings.arrays import read_npz as read_npz
from models.recordings.arrays import read_parquet as read_parquet
from models.recordings.options import BadRecording as BadRecording
from models.recordings.options import Recording as Recording
from models.recordings.options import RecordingOptions as RecordingOptions
from models.recordings.stamps import EPOCH_UNITS as EPOCH_UNITS
from models.recordings.stamps import epoch_unit as epoch_unit
from models.recordings.stamps import is_missing as is_missing
from models.recordings.stamps import seconds as seconds
from models.recordings.text import iter_csv_blocks as iter_csv_blocks
from models.recordings.text import look_at as look_at
from models.recordings.text import read_csv as read_csv
