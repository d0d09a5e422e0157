//! Expressions: CEL text to a syntax tree, and places in the text.
//!
//! The parser is that of the `cel` crate. One thing is added to the language: `products[]` means every element of a list. The
//! parser sees it as `products['']`, an index that no event can have, and places are counted in the text as it was written.

use std::mem::ManuallyDrop;

use cel::common::ast::IdedExpr;
use cel::parser::pratt_parser::{Lexer, TokenKind};
use cel::parser::{ParseError, PrattParser};

/// Bytes of one expression.
const BYTES_MAX: usize = 2_000;
/// Parentheses, calls and lists within each other.
const DEPTH_MAX: u16 = 8;

/// Ternaries in one expression; each stands within the one before.
const TERNARIES_MAX: usize = 16;

/// Every element of a list, as the parser sees it.
const EACH: &str = "['']";

/// A parsed expression.
pub struct Expression {
    /// The tree. It is never dropped: dropping is recursive, and a guest's stack is small.
    pub root: ManuallyDrop<IdedExpr>,
    /// As the parser saw it.
    seen: String,
    /// Where `[]` was written, in bytes of `seen`.
    each: Vec<usize>,
}

impl Expression {
    /// Parses CEL. The fault says where it stands.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("is {} bytes; an expression may have {BYTES_MAX}", text.len()));
        }
        let (seen, each, ternaries) = with_each(text);
        if ternaries > TERNARIES_MAX {
            return Err(format!("has {ternaries} ternaries (`? :`); an expression may have {TERNARIES_MAX}"));
        }
        match parser().parse(&seen) {
            Ok(root) => Ok(Self { root: ManuallyDrop::new(root), seen, each }),
            Err(errors) => {
                let errors = ManuallyDrop::new(errors);
                // The parser tells of several; the first with a place is the cause, unless it gave up for depth, which has none.
                let cause = |error: &&ParseError| error.pos.0 > 0 || error.msg.contains("recursion limit");
                let error = errors.errors.iter().find(cause).or(errors.errors.first());
                let Some(error) = error else { return Err("is no CEL expression".into()) };
                let detail = error.msg.replace(EACH, "[]");
                let detail = detail.strip_prefix("Syntax error: ").unwrap_or(&detail).to_owned();
                let this = Self { root: ManuallyDrop::new(IdedExpr::default()), seen, each };
                Err(match error.pos {
                    (0, _) => format!("does not parse: {detail}"),
                    (line, column) => format!("{}: does not parse: {detail}", this.place(this.offset(line, column))),
                })
            }
        }
    }

    /// Where a part of the expression stands. The parser tells places only together with an error, so it is given one.
    pub fn place_of(&self, id: u64) -> String {
        let broken = format!("{}\n)", self.seen);
        let offset = parser().parse(&broken).err().and_then(|errors| {
            let errors = ManuallyDrop::new(errors);
            errors.errors.iter().find_map(|error| error.source_info.as_ref()?.offset_for(id))
        });
        self.place(offset.map_or(0, |(start, _)| start as usize))
    }

    /// The byte in `seen` of a line and column as the parser counts them, from 1.
    fn offset(&self, line: isize, column: isize) -> usize {
        let before = self.seen.split_inclusive('\n').take(line.max(1) as usize - 1).map(str::len).sum::<usize>();
        before + column.max(1) as usize - 1
    }

    /// A byte in `seen` as its line and character in the text as it was written.
    fn place(&self, offset: usize) -> String {
        let before = self.seen.get(..offset).unwrap_or(&self.seen);
        let line = before.matches('\n').count();
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let widened = self.each.iter().filter(|at| (start..offset).contains(*at)).count() * (EACH.len() - "[]".len());
        let column = before[start..].chars().count().saturating_sub(widened) + 1;
        if line == 0 { format!("at character {column}") } else { format!("at line {}, character {column}", line + 1) }
    }
}

fn parser() -> PrattParser {
    PrattParser::new().max_recursion_depth(DEPTH_MAX).error_recovery_limit(2)
}

/// The text with `[]` behind a name or an index as an index, where that was, and the number of question marks.
fn with_each(text: &str) -> (String, Vec<usize>, usize) {
    let (mut seen, mut each, mut copied) = (String::with_capacity(text.len() + 16), Vec::new(), 0);
    let mut ternaries = 0;
    let mut lexer = Lexer::new(text);
    let (mut named, mut opened) = (false, None);
    loop {
        let token = lexer.lex();
        match token.kind {
            TokenKind::TokError | TokenKind::TokEnd => break,
            TokenKind::TokWhitespace | TokenKind::TokComment => continue,
            TokenKind::TokRightBracket if opened.is_some() => {
                let start = opened.take().unwrap_or(token.start);
                seen.push_str(&text[copied..start]);
                each.push(seen.len());
                seen.push_str(EACH);
                copied = token.end;
            }
            TokenKind::TokQuestion => ternaries += 1,
            _ => {}
        }
        opened = (token.kind == TokenKind::TokLeftBracket && named).then_some(token.start);
        named = matches!(token.kind, TokenKind::TokIdent | TokenKind::TokReservedWord | TokenKind::TokRightBracket);
    }
    seen.push_str(&text[copied..]);
    (seen, each, ternaries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Expression::parse(text).err().unwrap_or_else(|| panic!("{text:?} parses"))
    }

    #[test]
    fn every_element_is_an_index_that_no_event_has() {
        assert_eq!(with_each("a.b[].c * a.b[ ].d"), ("a.b[''].c * a.b[''].d".into(), vec![3, 15], 0));
        assert_eq!(with_each("a == '[]' && b in []").1, Vec::<usize>::new());
        assert_eq!(with_each(r#"a["x y"][].c"#).0, r#"a["x y"][''].c"#);
    }

    #[test]
    fn what_does_not_parse_says_where() {
        assert!(fault("properties.total >").starts_with("at character 19: does not parse: "));
        assert!(fault("a.b[].c == == 1").starts_with("at character 12: "), "{}", fault("a.b[].c == == 1"));
        assert!(fault("a\n  && && b").starts_with("at line 2, character 6: "), "{}", fault("a\n  && && b"));
        assert!(fault("").contains("does not parse"));
        assert!(fault("'open").contains("at character 1"), "{}", fault("'open"));
        assert!(fault("a == 99999999999999999999").contains("invalid int literal"));
        assert!(fault(&"a".repeat(2_001)).contains("may have 2000"));
    }

    #[test]
    fn a_part_has_a_place() {
        let parsed = Expression::parse("a.b[].c == 'é' && x.d").unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(parsed.place_of(parsed.root.id), "at character 16");
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |depth: usize| format!("{}a + 1{}", "(1 * ".repeat(depth), ")".repeat(depth));
        assert!(Expression::parse(&deep(7)).is_ok());
        assert!(fault(&deep(40)).contains("recursion limit"));
        assert!(fault(&"a ? b : ".repeat(200)).contains("200 ternaries"));
        assert!(Expression::parse(&format!("1{}", " + 1".repeat(400))).is_ok());
    }
}
