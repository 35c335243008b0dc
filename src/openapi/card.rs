//! `/v1/card`: a person's card, and the rules that it follows.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Components, Content, Required};
use utoipa::{PartialSchema, ToSchema};

use super::health::{item, operation};
use super::{ADMIN_BASIC, ADMIN_TOKEN, DEVICE_TOKEN, content, described, problems, types};
use crate::respond::JSON;

/// A text in both languages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CardText {
    /// Vietnamese.
    pub vi: String,
    /// English.
    pub en: String,
}

/// The card in a scan's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScanCard {
    /// green, yellow, red or unknown.
    #[schema(schema_with = colour, required)]
    pub colour: String,
    /// As of when the facts are known; missing where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// The rule set and its version; missing where none is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
}

/// A person's card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PersonCard {
    /// green, yellow, red or unknown.
    #[schema(schema_with = colour, required)]
    pub colour: String,
    /// The rule set and its version; missing where none is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
    /// What the rule set is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<CardText>,
    /// Until when the colour holds while nothing new is known; missing where it has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// As of when the facts are known; missing where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// The rule that decides; none where no rule holds.
    pub reasons: Vec<CardReason>,
}

impl Default for PersonCard {
    fn default() -> Self {
        Self {
            colour: "unknown".to_owned(),
            rules: None,
            title: None,
            until: None,
            as_of: None,
            reasons: Vec::new(),
        }
    }
}

/// Why a card has its colour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CardReason {
    /// The rule.
    pub rule: String,
    /// What it says.
    pub description: CardText,
    /// The facts that it looks at, as `/v1/health` tells them.
    #[schema(value_type = Vec<Object>)]
    pub facts: Value,
}

/// The rule sets, of each the highest version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CardRulesList {
    /// By id.
    pub rules: Vec<CardRules>,
}

/// A rule set, without its rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CardRules {
    /// Its name.
    pub id: String,
    /// Its version.
    pub version: u32,
    /// The province it is for; missing where it is for all that have none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub province: Option<String>,
    /// From when it is valid.
    pub valid_from: String,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_to: Option<String>,
    /// What it is called.
    pub title: CardText,
    /// The documents that it follows.
    pub sources: Vec<String>,
    /// Whether cards follow it now.
    pub in_force: bool,
}

/// A rule set that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CardRulesTaken {
    /// Its name.
    pub id: String,
    /// Its version.
    pub version: u32,
    /// How many rules it has.
    pub rules: u64,
    /// How many cases it was tried on.
    pub cases: u64,
}

/// Adds the schemas that [`paths`] names.
pub(super) fn add_to(components: &mut Components) {
    let schemas = [
        (CardText::name(), CardText::schema()),
        (PersonCard::name(), PersonCard::schema()),
        (CardReason::name(), CardReason::schema()),
        (CardRules::name(), CardRules::schema()),
        (CardRulesList::name(), CardRulesList::schema()),
        (CardRulesTaken::name(), CardRulesTaken::schema()),
    ];
    components.schemas.extend(schemas.map(|(name, schema)| (name.into_owned(), schema)));
}

/// The paths, and what they answer.
pub(super) fn paths() -> Vec<(&'static str, PathItem)> {
    let mut rules = item(HttpMethod::Put, put_rules());
    rules.get = Some(get_rules().build());
    vec![("/v1/card", item(HttpMethod::Get, get())), ("/v1/card/rules", rules)]
}

/// `card=true` of a check-in.
pub(super) fn parameter() -> ParameterBuilder {
    let flag = ObjectBuilder::new().schema_type(SchemaType::new(Type::Boolean)).build();
    ParameterBuilder::new()
        .name("card")
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some("true from a place's device: the person's card is told in the answer"))
        .schema(Some(Schema::from(flag)))
}

fn get() -> OperationBuilder {
    let province = ParameterBuilder::new()
        .name("province")
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some("By whose rules: a province's code; by the national ones without it"))
        .schema(Some(types::pattern("A province's code", "^[0-9]{2}$")));
    let operation = operation("The COVID-19 card of the person who asks", "card")
        .parameter(province)
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(DEVICE_TOKEN, []))
        .response(
            "200",
            described("The card, and why it has its colour").content(JSON, content::<PersonCard>()),
        );
    problems(operation, &[400, 422])
}

fn put_rules() -> OperationBuilder {
    let text =
        "A rule set, as config/rules has them: its rules in CertLogic, and the cases that it is tried on";
    let document: Schema = ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Object))
        .description(Some(text))
        .build()
        .into();
    let body = RequestBodyBuilder::new()
        .description(Some(text))
        .content(JSON, Content::new(Some(document)))
        .required(Some(Required::True))
        .build();
    let taken = |text: &str| described(text).content(JSON, content::<CardRulesTaken>());
    let operation = officers("Bring a rule set of the card", "put_card_rules")
        .description(Some(
            "Tried on its own cases first; 422 names what is wrong by a JSON pointer. Cards follow it once all are judged \
             by it, within seconds where few are known.",
        ))
        .request_body(Some(body))
        .response("200", taken("This version was there"))
        .response("201", taken("Taken"));
    problems(operation, &[400, 409, 415, 422, 429])
}

fn get_rules() -> OperationBuilder {
    let operation = officers("The rule sets of the card", "card_rules").response(
        "200",
        described("Of each set the highest version").content(JSON, content::<CardRulesList>()),
    );
    problems(operation, &[400, 429])
}

fn officers(summary: &str, id: &str) -> OperationBuilder {
    operation(summary, id)
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(ADMIN_TOKEN, []))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(ADMIN_BASIC, []))
}

fn colour() -> Schema {
    let colours = ["green", "yellow", "red", "unknown"];
    ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).enum_values(Some(colours)).build().into()
}
