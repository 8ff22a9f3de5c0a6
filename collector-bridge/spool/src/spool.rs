//! The spool at work: what is appended, handed out, done with, and lost.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{
        File, {self},
    },
    io,
    time::Duration,
};

use crate::{
    Order, SpoolConfig, SpoolError, SyncPolicy,
    frame::{Frame, HEAD},
    manifest::{Cursor, Manifest, Open},
    recovery::{
        Recovery, {self},
    },
    segment::{
        BEGIN, Found, Reader, Writer, {self},
    },
    sync::SyncJob,
};

/// A segment is sealed before it gets longer than this, or than an eighth of the spool.
const SEGMENT_BYTES: u64 = 16 << 20;

/// Most frames that are handed out before older ones, and most new ones that are remembered for that.
const MOST_AHEAD: usize = 4096;
const MOST_FRESH: usize = 64;

/// Records that were lost, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// There was no room.
    pub full: u64,
    /// They were too old.
    pub expired: u64,
    /// They were not any more what was written.
    pub corrupt: u64,
}

/// Where a frame that was handed out begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    segment: u64,
    offset: u64,
}

/// A place between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    ticket: Ticket,
    /// Records of the segment before it.
    before: u64,
}

/// The frames of one folder.
#[derive(Debug)]
pub struct Spool {
    config: SpoolConfig,
    /// As it will be written; its cursor is up to date.
    manifest: Manifest,
    /// Where the frames of each segment end, also of the one that is written.
    lengths: BTreeMap<u64, u64>,
    /// The number of the next segment.
    free_number: u64,
    writer: Option<Writer>,
    reader: Option<Reader>,
    /// Where the oldest frame is that was not handed out.
    next: Place,
    /// Frames that were handed out and are not done with; with the records of their segment before each.
    outstanding: BTreeMap<Ticket, u64>,
    /// Frames behind `next` that were handed out already: where each ends, and its records.
    ahead: BTreeMap<Ticket, (Place, u32)>,
    /// The newest frames, if they may be handed out before older ones.
    fresh: VecDeque<Ticket>,
    is_turn_of_fresh: bool,
    losses: Losses,
    /// Records that were neither handed out nor lost.
    waiting: u64,
    /// Segments that grew since the last [`SyncJob`].
    unsynced: BTreeMap<u64, File>,
    /// Whether anything changed since then.
    is_dirty: bool,
    _lock: File,
}

impl Spool {
    /// Opens a folder, and finds out what an earlier run left there.
    ///
    /// # Errors
    /// See [`SpoolError`].
    pub fn open(config: SpoolConfig) -> Result<(Self, Recovery), SpoolError> {
        let recovery::Left { manifest, lengths, free_number, recovery, lock } =
            recovery::recover(&config.folder)?;
        let Cursor { segment, offset, records } = manifest.cursor;
        let mut spool = Self {
            next: Place { ticket: Ticket { segment, offset: offset.max(BEGIN) }, before: records },
            config,
            manifest,
            lengths,
            free_number,
            writer: None,
            reader: None,
            outstanding: BTreeMap::new(),
            ahead: BTreeMap::new(),
            fresh: VecDeque::new(),
            is_turn_of_fresh: false,
            losses: Losses::default(),
            waiting: recovery.records,
            unsynced: BTreeMap::new(),
            is_dirty: true,
            _lock: lock,
        };
        spool.forget_before(segment);
        if let Some(job) = spool.sync_job().map_err(|cause| spool.unusable(cause))? {
            job.run().map_err(|cause| spool.unusable(cause))?;
        }
        Ok((spool, recovery))
    }

    fn unusable(&self, cause: io::Error) -> SpoolError {
        SpoolError::Unusable { path: self.config.folder.clone(), cause }
    }

    /// Records that were neither handed out nor lost.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lengths.values().sum()
    }

    /// What was lost since the last call.
    pub fn take_losses(&mut self) -> Losses {
        std::mem::take(&mut self.losses)
    }

    /// Appends a frame. Where there is no room, the oldest segments go.
    ///
    /// # Errors
    /// The file system's: the frame is not in the spool then.
    pub fn append(&mut self, frame: &Frame, now_ms: u64) -> io::Result<()> {
        let length = (HEAD + frame.body.len()) as u64;
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
        self.manifest.open = Some(Open { segment: number, records: writer.records });
        self.waiting += u64::from(frame.records);
        self.is_dirty = true;
        if self.config.order == Order::Interleaved {
            if self.fresh.len() == MOST_FRESH {
                self.fresh.pop_front();
            }
            self.fresh.push_back(Ticket { segment: number, offset: at });
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

    /// Ends the segment that is written.
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
                self.go_to(Ticket { segment: oldest, offset: BEGIN });
            }
            if self.next.ticket.segment == oldest {
                let behind = Ticket { segment: oldest + 1, offset: BEGIN };
                self.pass(Place { ticket: behind, before: records }, |losses| &mut losses.full);
                self.go_to(behind);
            }
            self.forget(oldest);
            self.move_cursor();
        }
    }

    /// Goes on to a later place in the same segment. Records in between that nobody has are lost.
    fn pass(&mut self, to: Place, reason: impl FnOnce(&mut Losses) -> &mut u64) {
        let mut between = to.before.saturating_sub(self.next.before);
        while let Some(entry) = self.ahead.first_entry().filter(|entry| *entry.key() < to.ticket) {
            let (_, records) = entry.remove();
            between = between.saturating_sub(u64::from(records));
        }
        self.next = to;
        self.lose(between, reason);
    }

    fn lose(&mut self, records: u64, reason: impl FnOnce(&mut Losses) -> &mut u64) {
        *reason(&mut self.losses) += records;
        self.waiting = self.waiting.saturating_sub(records);
    }

    /// The next frame that nobody has yet, and the ticket to say that it is [done](Self::done).
    ///
    /// # Errors
    /// The file system's; the frame stays where it is.
    pub fn next(&mut self, now_ms: u64) -> io::Result<Option<(Ticket, Frame)>> {
        if self.config.order == Order::Interleaved {
            self.is_turn_of_fresh = !self.is_turn_of_fresh;
            if self.is_turn_of_fresh
                && let Some(found) = self.newest()?
            {
                return Ok(Some(found));
            }
        }
        self.oldest(now_ms)
    }

    fn oldest(&mut self, now_ms: u64) -> io::Result<Option<(Ticket, Frame)>> {
        loop {
            let at = self.next.ticket;
            let Some(end) = self.lengths.get(&at.segment).copied() else {
                let Some((&number, _)) = self.lengths.range(at.segment..).next() else { return Ok(None) };
                self.go_to(Ticket { segment: number, offset: BEGIN });
                continue;
            };
            if let Some(&(behind, _)) = self.ahead.get(&at) {
                self.pass(behind, |losses| &mut losses.corrupt);
                continue;
            }
            let found = match self.read(at, end) {
                // Somebody removed or cut the file: nothing of it can be had any more.
                Err(error) if is_gone(&error) => Found::End,
                found => found?,
            };
            match found {
                Found::Frame { head, next, frame } => {
                    self.pass(Place { ticket: at, before: head.before }, |losses| &mut losses.corrupt);
                    let records = u64::from(frame.records);
                    self.next =
                        Place { ticket: Ticket { offset: next, ..at }, before: head.before + records };
                    if Duration::from_millis(now_ms.saturating_sub(head.written_ms)) > self.config.max_age {
                        self.lose(records, |losses| &mut losses.expired);
                        self.move_cursor();
                        continue;
                    }
                    self.waiting = self.waiting.saturating_sub(records);
                    self.outstanding.insert(at, head.before);
                    return Ok(Some((at, frame)));
                }
                Found::Broken { next } => self.next.ticket.offset = next,
                Found::End => match self.manifest.sealed.get(&at.segment) {
                    None => return Ok(None),
                    Some(&before) => {
                        let ticket = Ticket { segment: at.segment + 1, offset: BEGIN };
                        self.pass(Place { ticket, before }, |losses| &mut losses.corrupt);
                        self.go_to(ticket);
                        self.move_cursor();
                    }
                },
            }
        }
    }

    /// The oldest of the newest frames, unless it is the oldest of all, too old to be remembered, or broken.
    fn newest(&mut self) -> io::Result<Option<(Ticket, Frame)>> {
        while self.fresh.front().is_some_and(|ticket| *ticket <= self.next.ticket) {
            self.fresh.pop_front();
        }
        let Some(&at) = self.fresh.front() else { return Ok(None) };
        let Some(end) = self.lengths.get(&at.segment).copied().filter(|_| self.ahead.len() < MOST_AHEAD)
        else {
            return Ok(None);
        };
        let found = self.read(at, end)?;
        self.fresh.pop_front();
        let Found::Frame { head, next, frame } = found else { return Ok(None) };
        let records = u64::from(frame.records);
        let ticket = Ticket { offset: next, ..at };
        self.ahead.insert(at, (Place { ticket, before: head.before + records }, frame.records));
        self.waiting = self.waiting.saturating_sub(records);
        self.outstanding.insert(at, head.before);
        Ok(Some((at, frame)))
    }

    fn go_to(&mut self, ticket: Ticket) {
        self.next = Place { ticket, before: 0 };
    }

    fn read(&mut self, at: Ticket, end: u64) -> io::Result<Found> {
        let reader = match self.reader.take() {
            Some(reader) if reader.number == at.segment => reader,
            _ => match &self.writer {
                Some(writer) if writer.number == at.segment => Reader::of(writer)?,
                _ => Reader::open(&segment::path(&self.config.folder, at.segment), at.segment)?,
            },
        };
        self.reader.insert(reader).read(at.offset, end)
    }

    /// A frame that was handed out is done with, whatever became of it.
    pub fn done(&mut self, ticket: Ticket) {
        self.outstanding.remove(&ticket);
        self.move_cursor();
    }

    /// The cursor stands before the first frame that is not done with; segments before it go.
    fn move_cursor(&mut self) {
        let mut first = self.next;
        if let Some((&ticket, &before)) = self.outstanding.first_key_value()
            && ticket < first.ticket
        {
            first = Place { ticket, before };
        }
        let Place { ticket: Ticket { segment, offset }, before: records } = first;
        self.manifest.cursor = Cursor { segment, offset, records };
        self.is_dirty = true;
        self.forget_before(segment);
    }

    fn forget_before(&mut self, segment: u64) {
        while let Some((&number, _)) = self.manifest.sealed.first_key_value() {
            if number >= segment {
                return;
            }
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u64) {
        self.manifest.sealed.remove(&number);
        self.lengths.remove(&number);
        self.unsynced.remove(&number);
        self.is_dirty = true;
        // One that cannot be removed is before the cursor: the next start tries again.
        _ = fs::remove_file(segment::path(&self.config.folder, number));
    }

    /// What has to be written through by now; nothing if nothing changed.
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

    /// A job could not be done: the next one does it again.
    pub fn sync_failed(&mut self, job: SyncJob) {
        self.unsynced.extend(job.files);
        self.is_dirty = true;
    }

    /// Seals what is written, so that the next start reads no segment.
    ///
    /// # Errors
    /// The file system's.
    pub fn close(mut self) -> io::Result<()> {
        self.seal()?;
        self.move_cursor();
        self.sync_job()?.map_or(Ok(()), |job| job.run())
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
    )
}
