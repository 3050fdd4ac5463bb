//! The metric table as immutable Parquet segments with one fixed, long schema.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use crate::error::{Error, Result};
use crate::train::Row;

/// Columns of every segment. -1 in layer, head or index: does not apply.
pub(super) const SCHEMA: &str = "message metrics {
    REQUIRED INT64 step;
    REQUIRED INT32 replica;
    REQUIRED BYTE_ARRAY metric (UTF8);
    REQUIRED BYTE_ARRAY site (UTF8);
    REQUIRED INT32 layer;
    REQUIRED INT32 head;
    REQUIRED INT32 index;
    REQUIRED FLOAT value;
}";

/// One row of the metric table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRow<'a> {
    /// Updates made before it was measured.
    pub step: u64,
    /// Replica.
    pub replica: u32,
    /// Metric.
    pub metric: &'a str,
    /// Tensor or hook name; empty where none applies.
    pub site: &'a str,
    /// Layer, head and index; -1 where one does not apply.
    pub place: [i32; 3],
    /// The number.
    pub value: f32,
}

impl<'a> From<&Row<'a>> for TableRow<'a> {
    fn from(row: &Row<'a>) -> Self {
        Self {
            step: row.step,
            replica: row.replica,
            metric: row.metric.card.name,
            site: &row.metric.site,
            place: [row.label.layer, row.label.head, row.label.index],
            value: row.value,
        }
    }
}

#[derive(Default)]
struct Columns {
    step: Vec<i64>,
    replica: Vec<i32>,
    metric: Vec<ByteArray>,
    site: Vec<ByteArray>,
    place: [Vec<i32>; 3],
    value: Vec<f32>,
}

/// Rows waiting for their segment, and the number of the next.
pub struct Segments {
    dir: PathBuf,
    next: u32,
    columns: Columns,
    /// Names as the bytes the writer takes; the same few come again and again.
    names: std::collections::HashMap<String, ByteArray>,
}

impl Segments {
    /// Rows that make a segment without waiting for a checkpoint.
    pub const ROWS: usize = 1 << 20;

    /// Goes on behind the first `keep` segments of `dir`; what lies beyond is removed.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be read or written.
    pub fn open(dir: &Path, keep: u32) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(Error::io("cannot create", dir))?;
        for entry in std::fs::read_dir(dir).map_err(Error::io("cannot read", dir))? {
            let path = entry.map_err(Error::io("cannot read", dir))?.path();
            if part_number(&path).is_some_and(|number| number >= keep) {
                std::fs::remove_file(&path).map_err(Error::io("cannot remove", &path))?;
            }
        }
        Ok(Self { dir: dir.to_owned(), next: keep, columns: Columns::default(), names: Default::default() })
    }

    /// Whether the first `count` segments are there and end as segments do.
    ///
    /// # Errors
    /// [`Error::Format`] naming the one that is missing or torn.
    pub fn check(dir: &Path, count: u32) -> Result<()> {
        let whole = |path: &Path| {
            let mut file = std::fs::File::open(path).ok()?;
            let mut end = [0; 4];
            file.seek(SeekFrom::End(-4)).ok()?;
            file.read_exact(&mut end).ok()?;
            (end == *b"PAR1").then_some(())
        };
        match (0..count).map(|number| part_path(dir, number)).find(|path| whole(path).is_none()) {
            Some(path) => Err(Error::format(
                path,
                "is missing or torn, so the run's table is not whole. Begin anew in another folder",
            )),
            None => Ok(()),
        }
    }

    /// Segments written so far.
    pub fn count(&self) -> u32 {
        self.next
    }

    /// Rows waiting.
    pub fn waiting(&self) -> usize {
        self.columns.step.len()
    }

    /// Adds a row.
    pub fn push(&mut self, row: &TableRow<'_>) {
        let names = &mut self.names;
        let mut name = |text: &str| match names.get(text) {
            Some(bytes) => bytes.clone(),
            None => {
                let bytes = ByteArray::from(text.as_bytes().to_vec());
                names.insert(text.to_owned(), bytes.clone());
                bytes
            }
        };
        let columns = &mut self.columns;
        columns.metric.push(name(row.metric));
        columns.site.push(name(row.site));
        columns.step.push(row.step as i64);
        columns.replica.push(row.replica as i32);
        for (column, value) in columns.place.iter_mut().zip(row.place) {
            column.push(value);
        }
        columns.value.push(row.value);
    }

    /// Writes the waiting rows as a segment, if there are any.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written; earlier segments stay as they are.
    pub fn flush(&mut self) -> Result<()> {
        if self.waiting() == 0 {
            return Ok(());
        }
        let path = part_path(&self.dir, self.next);
        let bytes = encode(&self.columns).map_err(|error| Error::format(&path, error.to_string()))?;
        // Readers take every file of the folder for a segment, so the unfinished one lies outside.
        let beside = self.dir.with_extension("partial");
        crate::files::write_through(&beside, &path, &bytes)?;
        self.next += 1;
        self.columns = Columns::default();
        Ok(())
    }
}

fn part_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("part-{number:06}.parquet"))
}

/// Number of `part-000000.parquet`.
pub(super) fn part_number(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok()
}

fn encode(columns: &Columns) -> parquet::errors::Result<Vec<u8>> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        // Hardly a value comes twice, so a dictionary of them would only cost.
        .set_column_dictionary_enabled(ColumnPath::from("value"), false)
        .set_column_encoding(ColumnPath::from("value"), Encoding::PLAIN)
        .set_created_by(format!("thermoscope {}", env!("CARGO_PKG_VERSION")))
        .build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    column::<Int64Type>(&mut group, &columns.step)?;
    column::<Int32Type>(&mut group, &columns.replica)?;
    column::<ByteArrayType>(&mut group, &columns.metric)?;
    column::<ByteArrayType>(&mut group, &columns.site)?;
    for place in &columns.place {
        column::<Int32Type>(&mut group, place)?;
    }
    column::<FloatType>(&mut group, &columns.value)?;
    group.close()?;
    writer.into_inner()
}

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
) -> parquet::errors::Result<()> {
    if let Some(mut column) = group.next_column()? {
        column.typed::<T>().write_batch(values, None, None)?;
        column.close()?;
    }
    Ok(())
}
