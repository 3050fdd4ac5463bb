//! Reads the metric table back.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArrayType, DataType, FloatType, Int32Type, Int64Type};
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

/// All series of a run directory whose metric `wanted` accepts.
///
/// # Errors
/// [`Error::Io`] and [`Error::Format`] naming the segment that cannot be read.
pub fn read_metrics(run: &Path, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<Key, Series>> {
    let dir = run.join("metrics");
    let mut parts: Vec<PathBuf> = std::fs::read_dir(&dir)
        .map_err(Error::io("cannot read", &dir))?
        .filter_map(|entry| entry.ok().map(|e| e.path()).filter(|p| part_number(p).is_some()))
        .collect();
    parts.sort_by_key(|path| part_number(path));
    let mut series = BTreeMap::new();
    for part in parts {
        let file = File::open(&part).map_err(Error::io("cannot read", &part))?;
        read_part(file, &wanted, &mut series)
            .map_err(|error| Error::format(&part, format!("is no metric segment: {error}")))?;
    }
    Ok(series)
}

fn read_part(
    file: File,
    wanted: &impl Fn(&str) -> bool,
    series: &mut BTreeMap<Key, Series>,
) -> parquet::errors::Result<()> {
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
    let mut found: Vec<(Key, Series)> = Vec::new();
    for at in 0..reader.num_row_groups() {
        let group = reader.get_row_group(at)?;
        let steps = column::<Int64Type>(group.as_ref(), 0)?;
        let replicas = column::<Int32Type>(group.as_ref(), 1)?;
        let metrics = column::<ByteArrayType>(group.as_ref(), 2)?;
        let sites = column::<ByteArrayType>(group.as_ref(), 3)?;
        let [layers, heads, indices] = [4, 5, 6].map(|c| column::<Int32Type>(group.as_ref(), c));
        let (layers, heads, indices) = (layers?, heads?, indices?);
        let values = column::<FloatType>(group.as_ref(), 7)?;
        let mut places: HashMap<_, Option<usize>> = HashMap::new();
        for row in 0..steps.len() {
            let place = [layers[row], heads[row], indices[row], replicas[row]];
            let slot = places.entry((metrics[row].data(), sites[row].data(), place)).or_insert_with(|| {
                let metric = String::from_utf8_lossy(metrics[row].data()).into_owned();
                wanted(&metric).then(|| {
                    let site = String::from_utf8_lossy(sites[row].data()).into_owned();
                    let [layer, head, index, replica] = place;
                    found.push((Key { metric, site, layer, head, index, replica }, Series::default()));
                    found.len() - 1
                })
            });
            if let Some(slot) = *slot {
                found[slot].1.steps.push(steps[row]);
                found[slot].1.values.push(values[row]);
            }
        }
    }
    for (key, part) in found {
        let all: &mut Series = series.entry(key).or_default();
        all.steps.extend(part.steps);
        all.values.extend(part.values);
    }
    Ok(())
}

fn column<T: DataType>(group: &dyn RowGroupReader, at: usize) -> parquet::errors::Result<Vec<T::T>> {
    let rows = group.metadata().num_rows() as usize;
    let mut values = Vec::with_capacity(rows.min(1 << 22));
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(at)?);
    while values.len() < rows {
        let (read, _, _) = reader.read_records(rows - values.len(), None, None, &mut values)?;
        if read == 0 {
            return Err(parquet::errors::ParquetError::EOF("a column ends early".to_owned()));
        }
    }
    Ok(values)
}
