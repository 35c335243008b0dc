//! `GET /v1/card` tells a person their card, `PUT /v1/card/rules` brings rules, `GET /v1/card/rules` lists them.

use bytes::Bytes;
use hyper::{Method, Response};

use super::facts::{self, Facts};
use super::rules::RuleSet;
use super::store;
use crate::openapi::{CardReason, CardRules, CardRulesList, CardText, PersonCard};
use crate::respond::{self, Cause, Refused};
use crate::services::Services;
use crate::services::ask::Ask;
use crate::services::capability::{Effect, Kind};
use crate::services::health::fact::{Fact, Known};
use crate::services::places::ProvinceCode;
use crate::verify::admin_token::AdminScope;

/// Whatever is asked under `/v1/card`.
///
/// # Errors
/// As the API describes.
pub(in crate::services) async fn answer(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    match (ask.method(), ask.path().as_slice()) {
        (&Method::GET | &Method::HEAD, ["card"]) => get(services, ask).await,
        (&Method::PUT, ["card", "rules"]) => put(services, ask).await,
        (&Method::GET | &Method::HEAD, ["card", "rules"]) => list(services, ask),
        _ => Err(Refused::new(Cause::NotFound, "there is nothing under this path")),
    }
}

async fn get(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let person = ask.person(services.host.as_ref())?;
    let [province] = ask.query(["province"])?;
    let province = province.map(|code| {
        let detail = "a province's code has two digits: 01 is Hà Nội, 79 is TP. Hồ Chí Minh";
        ProvinceCode::parse(&code).ok_or_else(|| Refused::new(Cause::Invalid, detail).field("province"))
    });
    let province = province.transpose()?;
    let card = &services.capabilities.card;
    let look = card.cards().look(person, province, ask.now);
    let Some(rules) = look.rules else {
        return Ok(respond::json(&PersonCard::default()));
    };
    let health = std::sync::Arc::clone(&services.capabilities.health);
    let unread = || Refused::new(Cause::Unavailable, "the facts can't be read now").bound("services.disk");
    let known = tokio::task::spawn_blocking(move || health.facts_of(person)).await;
    let known = known.map_err(|_| unread())?.map_err(|_| unread())?;
    let all: Vec<&Fact> = known.iter().map(|known| &known.fact).collect();
    let ordered = Facts::of(all);
    // Judged anew, for its reasons: on what is known now, which is what the table's row was made of.
    let judged = rules.judge(&ordered.data(ask.now), ask.now);
    let reason = judged.rule.map(|rule| {
        let seen = rule.facts(&ordered);
        let facts: Vec<&Known> = known.iter().filter(|known| seen.contains(&&known.fact)).collect();
        CardReason {
            rule: rule.id.clone(),
            description: CardText { vi: rule.description.vi.clone(), en: rule.description.en.clone() },
            // Strings and numbers always serialize.
            facts: serde_json::to_value(facts).unwrap_or_default(),
        }
    });
    Ok(respond::json(&PersonCard {
        colour: judged.colour.name().to_owned(),
        rules: Some(rules.label.clone()),
        title: Some(CardText { vi: rules.title.vi.clone(), en: rules.title.en.clone() }),
        until: judged.until.map(|until| until.to_string()),
        as_of: look.as_of.max(facts::as_of(&known)).map(|at| at.to_string()),
        reasons: reason.into_iter().collect(),
    }))
}

async fn put(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    ask.officer(services.host.as_ref(), AdminScope::Services)?;
    let [] = ask.query([])?;
    // For its type, and whether it is JSON at all.
    let _: serde::de::IgnoredAny = ask.json()?;
    let set = RuleSet::read(&ask.body).map_err(|wrong| {
        let at = if wrong.at.is_empty() { "body".to_owned() } else { wrong.at };
        Refused::new(Cause::Invalid, wrong.detail).field(at)
    })?;
    let sets = services.capabilities.card.sets().map_err(|_| unreadable())?;
    if sets.iter().any(|known| known.id == set.id && known.version > set.version) {
        return Err(store::not_newer());
    }
    let mut effect = Effect::Done(Vec::new());
    for event in store::events(&ask.body) {
        effect = services.log.record(Kind::Card, event, ask.now).await?;
        if matches!(effect, Effect::Refused(_)) {
            break;
        }
    }
    Ok(Response::from(effect))
}

fn list(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    ask.officer(services.host.as_ref(), AdminScope::Services)?;
    let [] = ask.query([])?;
    let card = &services.capabilities.card;
    let in_force = card.cards().in_force();
    let sets = card.sets().map_err(|_| unreadable())?;
    let rules = sets.iter().map(|set| CardRules {
        id: set.id.clone(),
        version: set.version,
        province: set.province.map(|code| code.to_string()),
        valid_from: set.valid_from.to_string(),
        valid_to: set.valid_to.map(|end| end.to_string()),
        title: CardText { vi: set.title.vi.clone(), en: set.title.en.clone() },
        sources: set.sources.clone(),
        in_force: in_force.iter().any(|other| other.label == set.label),
    });
    Ok(respond::json(&CardRulesList { rules: rules.collect() }))
}

fn unreadable() -> Refused {
    Refused::new(Cause::Unavailable, "the rules can't be read now").bound("services.disk")
}
