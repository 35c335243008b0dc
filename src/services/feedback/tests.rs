use tempfile::TempDir;

use super::event::{Sent, Text};
use super::item::{Category, Language, RECEIPTS_MAX, State as Stage};
use super::*;
use crate::respond::{Cause, Refused};
use crate::services::log::{EventLog, Settings};

const NOW: i64 = 1_637_737_200_000;
const DAY: i64 = DAY_MS;

/// Feedback over real tables and a real log, which can be opened anew.
struct World {
    dir: TempDir,
    feedback: Arc<Feedback>,
    log: EventLog,
}

impl World {
    fn new() -> Self {
        Self::open(TempDir::new().expect("a directory"))
    }

    fn open(dir: TempDir) -> Self {
        let mut config = Config::default();
        config.gateway.data_dir = dir.path().to_owned();
        let state = State::open(&dir.path().join("tables")).expect("tables");
        let feedback = Feedback::open(&state, &config).expect("feedback");
        let settings = Settings { segment_bytes: 1 << 20, bytes_max: 64 << 20, retain_ms: DAY };
        let all: Vec<Arc<dyn Capability>> = vec![Arc::clone(&feedback) as _];
        let log = EventLog::open(&dir.path().join("log"), &settings, &state, all).expect("a log");
        feedback.load().expect("loads");
        Self { dir, feedback, log }
    }

    fn reopened(self) -> Self {
        let Self { dir, feedback, log } = self;
        log.close();
        drop((feedback, log));
        Self::open(dir)
    }

    fn told(&self, told: &Told, at: i64) -> Effect {
        self.log.record_blocking(Kind::Feedback, body(told), UnixMillis(at)).expect("recorded")
    }

    fn sent(&self, sent: Sent, at: i64) -> Result<(bool, String), Refused> {
        match self.told(&Told::Sent(Box::new(sent)), at) {
            Effect::Created(body) => Ok((true, id(&body))),
            Effect::Done(body) => Ok((false, id(&body))),
            Effect::Refused(refused) => Err(refused),
        }
    }

    fn moved(&self, id: &str, to: Stage, revision: u32, answer: Option<Text>) -> Result<u64, Refused> {
        let told = Told::Moved { id: id.to_owned(), to, revision, answer, by: "token:officer".to_owned() };
        match self.told(&told, NOW + 1) {
            Effect::Created(body) | Effect::Done(body) => {
                let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                Ok(body["revision"].as_u64().expect("a number"))
            }
            Effect::Refused(refused) => Err(refused),
        }
    }

    fn photo(&self, picture: &[u8], at: i64) -> String {
        let photo = self.feedback.album.put(picture).expect("a photo");
        self.told(&Told::Photo { id: photo.clone(), bytes: picture.len() as u64 }, at);
        photo
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("services/photos")).expect("a directory").count()
    }

    fn open_anonymous(&self) -> u64 {
        self.feedback.tables.open_anonymous().expect("read")
    }
}

fn id(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    body["id"].as_str().expect("an id").to_owned()
}

fn sent(key: &str, text: &str) -> Sent {
    Sent {
        key: key.to_owned(),
        content: text.to_owned(),
        repeat: text.to_owned(),
        receipt: format!("receipt of {key}"),
        category: Category::Other,
        language: Language::Vietnamese,
        place: None,
        photo: None,
        text: Text::Here(text.to_owned()),
        sender: None,
        open_max: 3,
    }
}

fn answer(text: &str) -> Text {
    Text::Here(text.to_owned())
}

#[test]
fn the_same_id_or_text_is_one_piece_with_a_receipt_each() {
    let world = World::new();
    let (_, first) = world.sent(sent("a", "Mã bị mờ"), NOW).expect("taken");
    let mut retried = sent("a", "Mã bị mờ");
    retried.receipt = "second".to_owned();
    assert_eq!(world.sent(retried, NOW + 1), Ok((false, first.clone())));
    assert_eq!(world.sent(sent("b", "Mã bị mờ"), NOW + 599_999), Ok((false, first.clone())));
    // The id of what was the same is known from then on.
    assert_eq!(world.sent(sent("b", "Mã bị mờ"), NOW + DAY), Ok((false, first.clone())));
    for receipt in ["receipt of a", "second", "receipt of b"] {
        let found = world.feedback.tables.of_receipt(receipt).expect("read").map(|item| item.id);
        assert_eq!(found.as_ref(), Some(&first), "{receipt}");
    }
    let other = world.sent(sent("a", "Khác"), NOW + 2).expect_err("another text");
    assert_eq!((other.cause, other.field.as_deref()), (Cause::Conflict, Some("/id")));
    assert!(world.sent(sent("c", "Mã bị mờ"), NOW + 600_000).expect("later").0);
    assert_eq!(world.open_anonymous(), 2);
}

#[test]
fn receipts_of_one_piece_are_bounded() {
    let world = World::new();
    for number in 0..RECEIPTS_MAX {
        world.sent(sent(&number.to_string(), "Mã bị mờ"), NOW).expect("taken");
    }
    let refused = world.sent(sent("more", "Mã bị mờ"), NOW).expect_err("too often");
    assert_eq!(refused.cause, Cause::RateLimited);
    assert!(world.feedback.tables.of_receipt("receipt of 0").expect("read").is_some());
}

#[test]
fn what_nobody_signed_is_bounded_until_it_is_answered() {
    let world = World::new();
    let ids: Vec<String> = (0..3)
        .map(|number| world.sent(sent(&format!("{number}"), &format!("{number}")), NOW).expect("taken").1)
        .collect();
    let full = world.sent(sent("d", "d"), NOW).expect_err("full");
    assert_eq!(
        (full.cause, full.bound, full.limit),
        (Cause::Unavailable, Some("feedback.anonymous_open_max"), Some(3))
    );
    let mut signed = sent("e", "e");
    signed.sender = Some("0123456789abcdef0123456789abcdef".to_owned());
    assert!(world.sent(signed, NOW).expect("signed").0);
    world.moved(&ids[0], Stage::Rejected, 0, None).expect("spam");
    assert!(world.sent(sent("d", "d"), NOW).expect("room").0);
    assert_eq!(world.open_anonymous(), 3);
    world.moved(&ids[1], Stage::Triaged, 0, None).expect("triaged");
    world.moved(&ids[1], Stage::Answered, 1, Some(answer("Cảm ơn"))).expect("answered");
    assert_eq!(world.open_anonymous(), 3);
    world.moved(&ids[1], Stage::Closed, 2, None).expect("closed");
    assert_eq!(world.open_anonymous(), 2);
}

#[test]
fn steps_are_made_once_in_order_and_by_who_saw_the_last_one() {
    let world = World::new();
    let (_, id) = world.sent(sent("a", "a"), NOW).expect("taken");
    let refusal = |moved: Result<u64, Refused>| moved.map_err(|refused| (refused.cause, refused.field));
    let field = |name: &'static str| Some(name.into());
    assert_eq!(refusal(world.moved(&id, Stage::Closed, 0, None)), Err((Cause::Conflict, field("/to"))));
    assert_eq!(
        refusal(world.moved(&id, Stage::Triaged, 7, None)),
        Err((Cause::Conflict, field("/revision")))
    );
    assert_eq!(
        refusal(world.moved(&id, Stage::Triaged, 0, Some(answer("x")))),
        Err((Cause::Invalid, field("/answer")))
    );
    assert_eq!(refusal(world.moved("none", Stage::Triaged, 0, None)), Err((Cause::NotFound, None)));
    assert_eq!(world.moved(&id, Stage::Triaged, 0, None), Ok(1));
    assert_eq!(world.moved(&id, Stage::Triaged, 0, None), Ok(1));
    assert_eq!(
        refusal(world.moved(&id, Stage::Rejected, 0, None)),
        Err((Cause::Conflict, field("/revision")))
    );
    assert_eq!(refusal(world.moved(&id, Stage::Answered, 1, None)), Err((Cause::Invalid, field("/answer"))));
    assert_eq!(world.moved(&id, Stage::Answered, 1, Some(answer("Cảm ơn"))), Ok(2));
    assert_eq!(world.moved(&id, Stage::Closed, 2, None), Ok(3));
    let world = world.reopened();
    let item = world.feedback.tables.item(&id).expect("read").expect("there");
    let steps: Vec<_> = item.history.iter().map(|step| step.to).collect();
    assert_eq!(steps, [Stage::Triaged, Stage::Answered, Stage::Closed]);
    assert_eq!((item.state, item.revision, item.answer.as_deref()), (Stage::Closed, 3, Some("Cảm ơn")));
}

#[test]
fn a_long_text_is_put_together_and_an_abandoned_one_goes() {
    let world = World::new();
    let text = "ế🙂\n".repeat(600);
    let (parts, whole) = event::parted(text.clone(), "draft");
    assert!(parts.len() > 2);
    for part in &parts {
        world.told(part, NOW);
    }
    let mut long = sent("a", "a");
    long.text = whole.clone();
    let (_, id) = world.sent(long, NOW).expect("taken");
    assert_eq!(world.feedback.tables.item(&id).expect("read").expect("there").text, text);

    let (parts, whole) = event::parted(text, "another");
    world.told(&parts[0], NOW);
    world.feedback.expire(&world.log, UnixMillis(NOW + UNUSED_MS + 1));
    let mut torn = sent("b", "b");
    torn.text = whole;
    let refused = world.sent(torn, NOW).expect_err("its parts are gone");
    assert_eq!((refused.cause, refused.field.as_deref()), (Cause::Unavailable, Some("/text")));
}

#[test]
fn photos_go_when_nothing_names_them_and_not_before() {
    let world = World::new();
    let (used, unused) = (world.photo(b"used", NOW), world.photo(b"unused", NOW));
    let with_photo = |key: &str| Sent { photo: Some(used.clone()), ..sent(key, key) };
    world.sent(with_photo("a"), NOW).expect("taken");
    world.sent(with_photo("b"), NOW + 10 * DAY).expect("taken");
    let mut unknown = sent("c", "c");
    unknown.photo = Some("0".repeat(64));
    let refused = world.sent(unknown, NOW).expect_err("no such photo");
    assert_eq!((refused.cause, refused.field.as_deref()), (Cause::Invalid, Some("/photo")));

    world.feedback.expire(&world.log, UnixMillis(NOW + UNUSED_MS));
    assert_eq!(world.files(), 2);
    world.feedback.expire(&world.log, UnixMillis(NOW + UNUSED_MS + 1));
    assert_eq!((world.files(), world.feedback.album.get(&used).expect("kept").as_slice()), (1, &b"used"[..]));
    assert!(world.feedback.tables.photo(&unused).expect("read").is_none());
    // Of two pieces one goes, and the photo stays with the other.
    world.feedback.expire(&world.log, UnixMillis(NOW + 365 * DAY + 1));
    assert_eq!((world.files(), world.open_anonymous()), (1, 1));
    assert!(world.feedback.tables.of_receipt("receipt of a").expect("read").is_none());
    assert!(world.feedback.tables.of_receipt("receipt of b").expect("read").is_some());
    world.feedback.expire(&world.log, UnixMillis(NOW + 375 * DAY + 1));
    world.feedback.expire(&world.log, UnixMillis(NOW + 375 * DAY + 2));
    assert_eq!((world.files(), world.open_anonymous()), (0, 0));
}

#[test]
fn a_kill_between_file_and_event_leaves_nothing_and_room_is_bounded() {
    let world = World::new();
    let named = world.photo(b"named", NOW);
    world.feedback.album.put(b"its event never came").expect("a photo");
    std::fs::write(world.dir.path().join("services/photos/draft-0"), b"half").expect("a file");
    let world = world.reopened();
    assert_eq!(world.files(), 1);
    assert!(world.feedback.album.get(&named).is_ok());
    let album = Album::open(&world.dir.path().join("small"), 10).expect("an album");
    album.put(b"12345678").expect("room");
    album.put(b"12345678").expect("it is there already");
    assert!(matches!(album.put(b"123"), Err(album::AlbumError::Full { bytes: 11 })));
    album.sweep(|_| Ok(false)).expect("swept");
    album.put(b"123").expect("room again");
}

#[test]
fn the_queue_is_paged_by_waiting_time() {
    let world = World::new();
    let ids: Vec<String> = (0..3)
        .map(|number| {
            let signed =
                Sent { sender: Some("a".repeat(32)), ..sent(&format!("{number}"), &format!("{number}")) };
            world.sent(signed, NOW - number).expect("taken").1
        })
        .collect();
    world.moved(&ids[2], Stage::Triaged, 0, None).expect("triaged");
    let page = |state, after: &[u8], max| {
        let (items, more) = world.feedback.tables.page(state, after, max).expect("read");
        let last = items.last().map(|item| item.queue_key(state)[1..].to_vec()).unwrap_or_default();
        (items.into_iter().map(|item| item.id).collect::<Vec<_>>(), more, last)
    };
    let (first, more, last) = page(None, &[], 2);
    assert_eq!((first, more), (vec![ids[2].clone(), ids[1].clone()], true));
    let (second, more, _) = page(None, &last, 2);
    assert_eq!((second, more), (vec![ids[0].clone()], false));
    assert_eq!(page(Some(Stage::Received), &[], 9).0, [ids[1].clone(), ids[0].clone()]);
    assert_eq!(page(Some(Stage::Triaged), &[], 9).0, [ids[2].clone()]);
    assert!(page(Some(Stage::Closed), &[], 9).0.is_empty());
}

/// The API's description can't name this module's types, so it writes their names out.
#[test]
fn every_name_is_described() {
    let document: serde_json::Value = serde_json::from_str(crate::openapi::document()).expect("JSON");
    let request = &document["components"]["schemas"]["FeedbackRequest"]["properties"];
    let item = &document["components"]["schemas"]["FeedbackItem"]["properties"];
    let names = |of: &serde_json::Value| of["enum"].as_array().expect("names").clone();
    assert_eq!(names(&request["category"]), Category::ALL.iter().map(|one| one.name()).collect::<Vec<_>>());
    assert_eq!(names(&request["language"]), Language::ALL.iter().map(|one| one.name()).collect::<Vec<_>>());
    assert_eq!(names(&item["state"]), Stage::ALL.iter().map(|one| one.name()).collect::<Vec<_>>());
    let defaults = Config::default().feedback;
    assert_eq!(
        (defaults.photo_bytes_max, photo::PIXELS_MAX, item::TEXT_CHARS_MAX),
        (2_097_152, 12_582_912, 2_000)
    );
}
