//! The spool: appends, reads, releases and drops frames.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io,
    time::Duration,
};

use crate::{
    config::{Order, SpoolConfig, SyncPolicy},
    error::SpoolError,
    frame::{Frame, HEADER_BYTES},
    manifest::{Cursor, Manifest, OpenSegment},
    recovery::{self, Recovery},
    segment::{self, FIRST_FRAME_OFFSET, FrameRead, Reader, Writer},
    sync::SyncJob,
};

/// A segment is sealed before it exceeds this many bytes, or an eighth of the spool's bytes.
const SEGMENT_BYTES: u64 = 16 << 20;

/// With [`Order::Interleaved`]: upper bounds of the frames that are read before older ones, and of the
/// recently appended frames that are remembered for that.
const MAX_READ_AHEAD: usize = 4096;
const MAX_RECENT: usize = 64;

/// Records that were lost, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Dropped because the spool was full.
    pub full: u64,
    /// Dropped because they were older than [`SpoolConfig::max_age`].
    pub expired: u64,
    /// Damaged: the checksum did not match, or the file was cut or deleted.
    pub corrupt: u64,
}

/// The place of a frame that was read, by which it is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    segment: u64,
    offset: u64,
}

/// A place between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    ticket: Ticket,
    /// The number of records of the segment before this place.
    before: u64,
}

/// A queue of frames in one folder.
#[derive(Debug)]
pub struct Spool {
    config: SpoolConfig,
    /// The manifest as the next [`SyncJob`] writes it. Its cursor is up to date.
    manifest: Manifest,
    /// The offset at which the frames of each segment end, including the segment that is being written.
    lengths: BTreeMap<u64, u64>,
    /// The number of the next segment.
    free_number: u64,
    writer: Option<Writer>,
    reader: Option<Reader>,
    /// The place of the oldest frame that was not read.
    next: Place,
    /// Frames that were read and not released, with the number of records of their segment before each.
    outstanding: BTreeMap<Ticket, u64>,
    /// Frames after `next` that were read already: the end of each, and the number of its records.
    read_ahead: BTreeMap<Ticket, (Place, u32)>,
    /// The most recently appended frames; empty unless the order is [`Order::Interleaved`].
    recent: VecDeque<Ticket>,
    is_recent_next: bool,
    losses: Losses,
    /// The number of records that were neither read nor lost.
    waiting: u64,
    /// The segments that grew since the last [`SyncJob`].
    unsynced: BTreeMap<u64, File>,
    /// Whether anything changed since the last [`SyncJob`].
    is_dirty: bool,
    _lock: File,
}

impl Spool {
    /// Opens a folder, and finds the frames of an earlier run.
    ///
    /// # Errors
    /// Another process uses the folder, or the folder cannot be used: see [`SpoolError`].
    pub fn open(config: SpoolConfig) -> Result<(Self, Recovery), SpoolError> {
        let recovery::RecoveredFolder { manifest, lengths, free_number, recovery, lock } =
            recovery::recover(&config.folder)?;
        let Cursor { segment, offset, records } = manifest.cursor;
        let mut spool = Self {
            next: Place {
                ticket: Ticket { segment, offset: offset.max(FIRST_FRAME_OFFSET) },
                before: records,
            },
            config,
            manifest,
            lengths,
            free_number,
            writer: None,
            reader: None,
            outstanding: BTreeMap::new(),
            read_ahead: BTreeMap::new(),
            recent: VecDeque::new(),
            is_recent_next: false,
            losses: Losses::default(),
            waiting: recovery.records,
            unsynced: BTreeMap::new(),
            is_dirty: true,
            _lock: lock,
        };
        spool.delete_before(segment);
        if let Some(job) = spool.sync_job().map_err(|cause| spool.unusable(cause))? {
            job.run().map_err(|cause| spool.unusable(cause))?;
        }
        Ok((spool, recovery))
    }

    fn unusable(&self, cause: io::Error) -> SpoolError {
        SpoolError::Unusable { path: self.config.folder.clone(), cause }
    }

    /// The number of records that were neither read nor lost.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// The number of bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lengths.values().sum()
    }

    /// Returns the losses since the last call.
    pub fn take_losses(&mut self) -> Losses {
        std::mem::take(&mut self.losses)
    }

    /// Appends a frame. `now_ms` is the current time, in milliseconds since the Unix epoch. If the spool is
    /// full, the oldest segments are dropped, and their records are counted in [`Losses::full`].
    ///
    /// # Errors
    /// A write to the file system failed, or the body is too long: the frame is not in the spool.
    pub fn append(&mut self, frame: &Frame, now_ms: u64) -> io::Result<()> {
        let length = (HEADER_BYTES + frame.body.len()) as u64;
        let longest = SEGMENT_BYTES.min(self.config.max_bytes / 8);
        if self.writer.as_ref().is_some_and(|writer| writer.records > 0 && writer.end + length > longest) {
            self.seal()?;
        }
        self.make_room(length);
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.begin_segment()?,
        };
        let writer = self.writer.insert(writer);
        let at = writer.append(frame, now_ms, self.config.sync == SyncPolicy::Always)?;
        let number = writer.number;
        self.lengths.insert(number, writer.end);
        self.manifest.open = Some(OpenSegment { segment: number, records: writer.records });
        self.waiting += u64::from(frame.records);
        self.is_dirty = true;
        if self.config.order == Order::Interleaved {
            if self.recent.len() == MAX_RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(Ticket { segment: number, offset: at });
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<Writer> {
        let writer = Writer::create(&self.config.folder, self.free_number)?;
        self.free_number += 1;
        self.lengths.insert(writer.number, writer.end);
        if self.config.sync == SyncPolicy::Always {
            File::open(&self.config.folder)?.sync_all()?;
        }
        Ok(writer)
    }

    /// Ends the segment that is being written.
    fn seal(&mut self) -> io::Result<()> {
        if let Some(writer) = self.writer.take() {
            self.unsynced.insert(writer.number, writer.file()?);
            self.manifest.sealed.insert(writer.number, writer.records);
            self.manifest.open = None;
            self.is_dirty = true;
        }
        Ok(())
    }

    /// Drops the oldest sealed segments until `length` more bytes fit.
    fn make_room(&mut self, length: u64) {
        while self.bytes() + length > self.config.max_bytes {
            let Some((&oldest, &records)) = self.manifest.sealed.first_key_value() else { return };
            if self.next.ticket.segment < oldest {
                self.seek(Ticket { segment: oldest, offset: FIRST_FRAME_OFFSET });
            }
            if self.next.ticket.segment == oldest {
                let after = Ticket { segment: oldest + 1, offset: FIRST_FRAME_OFFSET };
                self.advance_to(Place { ticket: after, before: records }, |losses| &mut losses.full);
                self.seek(after);
            }
            self.delete_segment(oldest);
            self.update_cursor();
        }
    }

    /// Advances `next` to a later place in the same segment. The records in between that were not read ahead
    /// are counted as lost.
    fn advance_to(&mut self, to: Place, reason: impl FnOnce(&mut Losses) -> &mut u64) {
        let mut between = to.before.saturating_sub(self.next.before);
        while let Some(entry) = self.read_ahead.first_entry().filter(|entry| *entry.key() < to.ticket) {
            let (_, records) = entry.remove();
            between = between.saturating_sub(u64::from(records));
        }
        self.next = to;
        self.count_loss(between, reason);
    }

    fn count_loss(&mut self, records: u64, reason: impl FnOnce(&mut Losses) -> &mut u64) {
        *reason(&mut self.losses) += records;
        self.waiting = self.waiting.saturating_sub(records);
    }

    /// Reads the next frame, and returns it with the ticket to [release](Self::release) it. `None` if every
    /// frame was read. `now_ms` is the current time, in milliseconds since the Unix epoch; frames that are
    /// too old are dropped.
    ///
    /// # Errors
    /// A read from the file system failed. The frame was not read; the next call tries again.
    pub fn next(&mut self, now_ms: u64) -> io::Result<Option<(Ticket, Frame)>> {
        if self.config.order == Order::Interleaved {
            self.is_recent_next = !self.is_recent_next;
            if self.is_recent_next
                && let Some(found) = self.next_recent()?
            {
                return Ok(Some(found));
            }
        }
        self.next_oldest(now_ms)
    }

    fn next_oldest(&mut self, now_ms: u64) -> io::Result<Option<(Ticket, Frame)>> {
        loop {
            let at = self.next.ticket;
            let Some(end) = self.lengths.get(&at.segment).copied() else {
                let Some((&number, _)) = self.lengths.range(at.segment..).next() else { return Ok(None) };
                self.seek(Ticket { segment: number, offset: FIRST_FRAME_OFFSET });
                continue;
            };
            if let Some(&(end_of_frame, _)) = self.read_ahead.get(&at) {
                self.advance_to(end_of_frame, |losses| &mut losses.corrupt);
                continue;
            }
            let found = match self.read(at, end) {
                // The file was deleted or cut: its remaining frames cannot be read.
                Err(error) if is_segment_lost(&error) => FrameRead::End,
                found => found?,
            };
            match found {
                FrameRead::Frame { header, next, frame } => {
                    self.advance_to(Place { ticket: at, before: header.before }, |losses| {
                        &mut losses.corrupt
                    });
                    let records = u64::from(frame.records);
                    self.next =
                        Place { ticket: Ticket { offset: next, ..at }, before: header.before + records };
                    if Duration::from_millis(now_ms.saturating_sub(header.written_ms)) > self.config.max_age {
                        self.count_loss(records, |losses| &mut losses.expired);
                        self.update_cursor();
                        continue;
                    }
                    self.waiting = self.waiting.saturating_sub(records);
                    self.outstanding.insert(at, header.before);
                    return Ok(Some((at, frame)));
                }
                FrameRead::Damaged { next } => self.next.ticket.offset = next,
                FrameRead::End => match self.manifest.sealed.get(&at.segment) {
                    None => return Ok(None),
                    Some(&before) => {
                        let ticket = Ticket { segment: at.segment + 1, offset: FIRST_FRAME_OFFSET };
                        self.advance_to(Place { ticket, before }, |losses| &mut losses.corrupt);
                        self.seek(ticket);
                        self.update_cursor();
                    }
                },
            }
        }
    }

    /// Reads the oldest of the recently appended frames that is after `next`. `None` if there is none, if too
    /// many frames were read ahead, or if the frame is damaged.
    fn next_recent(&mut self) -> io::Result<Option<(Ticket, Frame)>> {
        while self.recent.front().is_some_and(|ticket| *ticket <= self.next.ticket) {
            self.recent.pop_front();
        }
        let Some(&at) = self.recent.front() else { return Ok(None) };
        let Some(end) =
            self.lengths.get(&at.segment).copied().filter(|_| self.read_ahead.len() < MAX_READ_AHEAD)
        else {
            return Ok(None);
        };
        let found = self.read(at, end)?;
        self.recent.pop_front();
        let FrameRead::Frame { header, next, frame } = found else { return Ok(None) };
        let records = u64::from(frame.records);
        let ticket = Ticket { offset: next, ..at };
        self.read_ahead.insert(at, (Place { ticket, before: header.before + records }, frame.records));
        self.waiting = self.waiting.saturating_sub(records);
        self.outstanding.insert(at, header.before);
        Ok(Some((at, frame)))
    }

    fn seek(&mut self, ticket: Ticket) {
        self.next = Place { ticket, before: 0 };
    }

    fn read(&mut self, at: Ticket, end: u64) -> io::Result<FrameRead> {
        let reader = match self.reader.take() {
            Some(reader) if reader.number == at.segment => reader,
            _ => match &self.writer {
                Some(writer) if writer.number == at.segment => Reader::from_writer(writer)?,
                _ => Reader::open(&segment::path(&self.config.folder, at.segment), at.segment)?,
            },
        };
        self.reader.insert(reader).read(at.offset, end)
    }

    /// Releases a frame that was read: the spool need not keep it any longer.
    pub fn release(&mut self, ticket: Ticket) {
        self.outstanding.remove(&ticket);
        self.update_cursor();
    }

    /// Moves the cursor before the first frame that is not released, and deletes the segments before it.
    fn update_cursor(&mut self) {
        let mut first = self.next;
        if let Some((&ticket, &before)) = self.outstanding.first_key_value()
            && ticket < first.ticket
        {
            first = Place { ticket, before };
        }
        let Place { ticket: Ticket { segment, offset }, before: records } = first;
        self.manifest.cursor = Cursor { segment, offset, records };
        self.is_dirty = true;
        self.delete_before(segment);
    }

    fn delete_before(&mut self, segment: u64) {
        while let Some((&number, _)) = self.manifest.sealed.first_key_value() {
            if number >= segment {
                return;
            }
            self.delete_segment(number);
        }
    }

    fn delete_segment(&mut self, number: u64) {
        self.manifest.sealed.remove(&number);
        self.lengths.remove(&number);
        self.unsynced.remove(&number);
        self.is_dirty = true;
        // If the file cannot be deleted, the next start tries again, because the segment is before the
        // cursor.
        _ = fs::remove_file(segment::path(&self.config.folder, number));
    }

    /// Takes the changes since the last job. `None` if there are none.
    ///
    /// # Errors
    /// No file descriptor was free.
    pub fn sync_job(&mut self) -> io::Result<Option<SyncJob>> {
        if !self.is_dirty {
            return Ok(None);
        }
        if let Some(writer) = &self.writer {
            self.unsynced.insert(writer.number, writer.file()?);
        }
        self.is_dirty = false;
        Ok(Some(SyncJob {
            folder: self.config.folder.clone(),
            files: std::mem::take(&mut self.unsynced),
            manifest: self.manifest.clone(),
            is_durable: self.config.sync != SyncPolicy::Never,
        }))
    }

    /// Gives back a job that failed: the next job repeats it.
    pub fn sync_failed(&mut self, job: SyncJob) {
        self.unsynced.extend(job.files);
        self.is_dirty = true;
    }

    /// Seals the segment that is being written, and writes the manifest, so that the next start reads no
    /// segment.
    ///
    /// # Errors
    /// A write to the file system failed.
    pub fn close(mut self) -> io::Result<()> {
        self.seal()?;
        self.update_cursor();
        self.sync_job()?.map_or(Ok(()), |job| job.run())
    }
}

/// Whether a read error means that the segment was deleted, cut or overwritten, so a retry is useless.
fn is_segment_lost(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
    )
}
