//! Reads the metric table back, row by row, so that tables of any length can be.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::Type;

use super::segments::{SCHEMA, part_number};
use crate::error::{Error, Result};

/// What a series is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Metric.
    pub metric: String,
    /// Tensor or hook name.
    pub site: String,
    /// Layer, or -1.
    pub layer: i32,
    /// Head, or -1.
    pub head: i32,
    /// Index, or -1.
    pub index: i32,
    /// Replica.
    pub replica: i32,
}

/// Steps and values, in order of step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Updates made before each measurement.
    pub steps: Vec<i64>,
    /// What was measured.
    pub values: Vec<f32>,
}

/// What takes in the rows of a metric table as they are read.
pub trait Sink {
    /// A series whose first row comes now: a number for it, or `None` where its rows are not wanted.
    fn open(&mut self, key: Key) -> Option<usize>;

    /// A row of a series that is wanted. Steps never fall from row to row.
    fn take(&mut self, series: usize, step: i64, value: f32);
}

/// Reads the metric table of a run once, row by row in the order of steps, and keeps none of it: memory grows with the
/// number of series alone.
///
/// # Errors
/// [`Error::Io`] and [`Error::Format`] naming the segment that cannot be read.
pub fn scan_metrics(run: &Path, sink: &mut impl Sink) -> Result<()> {
    let mut places = Places::default();
    parts(run)?.iter().try_for_each(|part| read_part(part, &mut places, sink))
}

/// The segments of a run, in order.
fn parts(run: &Path) -> Result<Vec<PathBuf>> {
    let dir = run.join("metrics");
    let mut parts: Vec<PathBuf> = std::fs::read_dir(&dir)
        .map_err(Error::io("cannot read", &dir))?
        .filter_map(|entry| entry.ok().map(|e| e.path()).filter(|p| part_number(p).is_some()))
        .collect();
    parts.sort_by_key(|path| part_number(path));
    Ok(parts)
}

fn read_part(part: &Path, places: &mut Places, sink: &mut impl Sink) -> Result<()> {
    let file = File::open(part).map_err(Error::io("cannot read", part))?;
    scan_part(file, places, sink).map_err(|error| Error::format(part, format!("is no metric segment: {error}")))
}

/// The last step and value of some metrics of a replica, of those that have no layer, head or index; from the latest segments
/// alone, so that it takes no longer for a long run.
///
/// # Errors
/// As [`scan_metrics`].
pub fn last_values(run: &Path, metrics: &[&str], replica: i32) -> Result<BTreeMap<String, (i64, f32)>> {
    struct Last<'a> {
        metrics: &'a [&'a str],
        replica: i32,
        found: Vec<(String, (i64, f32))>,
    }
    impl Sink for Last<'_> {
        fn open(&mut self, key: Key) -> Option<usize> {
            let wanted = self.metrics.contains(&key.metric.as_str()) && key.replica == self.replica;
            (wanted && [key.layer, key.head, key.index] == [-1; 3]).then(|| {
                self.found.push((key.metric, (-1, f32::NAN)));
                self.found.len() - 1
            })
        }

        fn take(&mut self, series: usize, step: i64, value: f32) {
            self.found[series].1 = (step, value);
        }
    }
    let mut all = BTreeMap::new();
    for part in parts(run)?.iter().rev() {
        if metrics.iter().all(|name| all.contains_key(*name)) {
            break;
        }
        let mut last = Last { metrics, replica, found: Vec::new() };
        read_part(part, &mut Places::default(), &mut last)?;
        for (name, value) in last.found {
            all.entry(name).or_insert(value);
        }
    }
    Ok(all)
}

/// All series of a run directory whose metric `wanted` accepts, whole.
///
/// # Errors
/// As [`scan_metrics`].
pub fn read_metrics(run: &Path, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<Key, Series>> {
    struct All<W> {
        wanted: W,
        found: Vec<(Key, Series)>,
    }
    impl<W: Fn(&str) -> bool> Sink for All<W> {
        fn open(&mut self, key: Key) -> Option<usize> {
            (self.wanted)(&key.metric).then(|| {
                self.found.push((key, Series::default()));
                self.found.len() - 1
            })
        }

        fn take(&mut self, series: usize, step: i64, value: f32) {
            self.found[series].1.steps.push(step);
            self.found[series].1.values.push(value);
        }
    }
    let mut all = All { wanted, found: Vec::new() };
    scan_metrics(run, &mut all)?;
    Ok(all.found.into_iter().collect())
}

/// Places of the table that were met so far.
#[derive(Default)]
struct Places {
    known: HashMap<Where, usize>,
    /// Their keys, what the sink calls them, and which place came next the last time: rows of one step follow each other
    /// as those of the step before did.
    all: Vec<Place>,
    last: usize,
}

/// Metric, site; layer, head, index and replica.
type Where = (Vec<u8>, Vec<u8>, [i32; 4]);

struct Place {
    key: Where,
    series: Option<usize>,
    next: usize,
}

impl Places {
    fn series(&mut self, metric: &ByteArray, site: &ByteArray, place: [i32; 4], sink: &mut impl Sink) -> Option<usize> {
        let guess = self.all.get(self.last).map_or(0, |last| last.next);
        let (metric, site) = (metric.data(), site.data());
        let right = |known: &&Place| known.key.2 == place && known.key.0 == metric && known.key.1 == site;
        let at = match self.all.get(guess).filter(right) {
            Some(_) => guess,
            None => {
                let key = (metric.to_vec(), site.to_vec(), place);
                let at = match self.known.get(&key) {
                    Some(at) => *at,
                    None => {
                        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                        let [layer, head, index, replica] = place;
                        let series =
                            sink.open(Key { metric: text(metric), site: text(site), layer, head, index, replica });
                        self.known.insert(key.clone(), self.all.len());
                        self.all.push(Place { key, series, next: 0 });
                        self.all.len() - 1
                    }
                };
                if let Some(last) = self.all.get_mut(self.last) {
                    last.next = at;
                }
                at
            }
        };
        self.last = at;
        self.all[at].series
    }
}

/// Rows that are decoded at once.
const ROWS: usize = 8192;

fn scan_part(file: File, places: &mut Places, sink: &mut impl Sink) -> parquet::errors::Result<()> {
    let reader = SerializedFileReader::new(file)?;
    let schema = reader.metadata().file_metadata().schema();
    let columns = |schema: &Type| {
        schema.get_fields().iter().map(|f| (f.name().to_owned(), f.get_physical_type())).collect::<Vec<_>>()
    };
    if schema.get_fields().iter().any(|field| !field.is_primitive())
        || columns(schema) != columns(&parse_message_type(SCHEMA)?)
    {
        return Err(ParquetError::General("its columns are not those of a metric table".to_owned()));
    }
    for at in 0..reader.num_row_groups() {
        let group = reader.get_row_group(at)?;
        let group = group.as_ref();
        let mut steps = Column::<Int64Type>::new(group, 0)?;
        let [mut metrics, mut sites] = [Column::<ByteArrayType>::new(group, 2)?, Column::new(group, 3)?];
        let [mut layers, mut heads, mut indices, mut replicas] = [
            Column::<Int32Type>::new(group, 4)?,
            Column::new(group, 5)?,
            Column::new(group, 6)?,
            Column::new(group, 1)?,
        ];
        let mut values = Column::<FloatType>::new(group, 7)?;
        let mut left = group.metadata().num_rows() as usize;
        while left > 0 {
            let rows = left.min(ROWS);
            let (steps, metrics, sites) = (steps.read(rows)?, metrics.read(rows)?, sites.read(rows)?);
            let (layers, heads, indices) = (layers.read(rows)?, heads.read(rows)?, indices.read(rows)?);
            let (replicas, values) = (replicas.read(rows)?, values.read(rows)?);
            for row in 0..rows {
                let place = [layers[row], heads[row], indices[row], replicas[row]];
                if let Some(series) = places.series(&metrics[row], &sites[row], place, sink) {
                    sink.take(series, steps[row], values[row]);
                }
            }
            left -= rows;
        }
    }
    Ok(())
}

/// A column that is read some rows at a time.
struct Column<T: DataType> {
    reader: ColumnReaderImpl<T>,
    values: Vec<T::T>,
}

impl<T: DataType> Column<T> {
    fn new(group: &dyn RowGroupReader, at: usize) -> parquet::errors::Result<Self> {
        Ok(Self { reader: get_typed_column_reader(group.get_column_reader(at)?), values: Vec::new() })
    }

    /// The next `rows` values.
    fn read(&mut self, rows: usize) -> parquet::errors::Result<&[T::T]> {
        self.values.clear();
        while self.values.len() < rows {
            let (read, _, _) = self.reader.read_records(rows - self.values.len(), None, None, &mut self.values)?;
            if read == 0 {
                return Err(ParquetError::EOF("a column ends early".to_owned()));
            }
        }
        Ok(&self.values)
    }
}
