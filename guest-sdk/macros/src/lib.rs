//! Derives of `selvedge-guest`. Use them through that crate.
//!
//! Every fault is reported at the author's own field or variant; what a type may be is checked by the traits of `selvedge-guest`, whose
//! messages name the choices.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Error, Field, Fields, Ident, LitInt, LitStr, Result, parse_macro_input};

/// Makes a struct the declaration and the decoder of what a stage reads: every field says `#[read("path")]`.
#[proc_macro_derive(Reads, attributes(read))]
pub fn reads(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(parse_macro_input!(input as DeriveInput), derive_reads)
}

/// Makes an enum stand for texts: every variant says `#[choice("text")]`, or stands for its own name.
#[proc_macro_derive(Choice, attributes(choice))]
pub fn choice(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(parse_macro_input!(input as DeriveInput), derive_choice)
}

/// Makes a struct the declaration of aggregates and the handles to contribute through: fields say
/// `#[aggregate(windows = "lifetime 7d", unit = "GBP", …)]` where there is something to say.
#[proc_macro_derive(Aggregates, attributes(aggregate))]
pub fn aggregates(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(parse_macro_input!(input as DeriveInput), derive_aggregates)
}

/// Makes a struct of `Option<f64>` fields the declaration of scores; a field may say `#[score(unit = "GBP")]`.
#[proc_macro_derive(Scores, attributes(score))]
pub fn scores(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(parse_macro_input!(input as DeriveInput), derive_scores)
}

fn expand(input: DeriveInput, derive: fn(&DeriveInput) -> Result<TokenStream>) -> proc_macro::TokenStream {
    derive(&input).unwrap_or_else(Error::into_compile_error).into()
}

fn named_fields(input: &DeriveInput) -> Result<Vec<(&Field, &Ident)>> {
    let wanted = "derive this for a struct with named fields, without type parameters";
    if !input.generics.params.is_empty() {
        return Err(Error::new(input.generics.span(), wanted));
    }
    match &input.data {
        Data::Struct(data) if matches!(data.fields, Fields::Named(_)) => {
            Ok(data.fields.iter().filter_map(|field| Some((field, field.ident.as_ref()?))).collect())
        }
        _ => Err(Error::new(input.ident.span(), wanted)),
    }
}

fn find<'a>(attributes: &'a [Attribute], name: &str) -> Option<&'a Attribute> {
    attributes.iter().find(|attribute| attribute.path().is_ident(name))
}

/// A field's name without the `r#` of a raw identifier.
fn plain(name: &Ident) -> String {
    let text = name.to_string();
    text.strip_prefix("r#").map(str::to_owned).unwrap_or(text)
}

fn derive_reads(input: &DeriveInput) -> Result<TokenStream> {
    let mut declares = TokenStream::new();
    let mut decodes = TokenStream::new();
    let mut scalars = quote!(::selvedge_guest::inputs::Families::NONE);
    for (field, name) in named_fields(input)? {
        let attribute = find(&field.attrs, "read").ok_or_else(|| {
            Error::new(field.span(), "say where the value comes from, for example #[read(\"agg:retail.orders\")]")
        })?;
        let path: LitStr = attribute.parse_args()?;
        if path.value().is_empty() {
            return Err(Error::new(path.span(), "the path is empty"));
        }
        let field_type = &field.ty;
        let path_tokens = if path.value().starts_with('.') {
            quote_spanned!(path.span()=> &::std::format!("{prefix}{}", #path))
        } else {
            quote_spanned!(path.span()=> #path)
        };
        scalars.extend(
            quote_spanned!(field_type.span()=> .and(<#field_type as ::selvedge_guest::inputs::Field>::SCALARS)),
        );
        declares.extend(quote_spanned!(field_type.span()=>
            <#field_type as ::selvedge_guest::inputs::Field>::declare(#path_tokens, reads);
        ));
        decodes.extend(quote_spanned!(field_type.span()=>
            #name: <#field_type as ::selvedge_guest::inputs::Field>::decode(cells),
        ));
    }
    let name = &input.ident;
    Ok(quote! {
        impl ::selvedge_guest::inputs::Reads for #name {
            const SCALARS: ::selvedge_guest::inputs::Families = #scalars;

            fn declare(prefix: &str, reads: &mut ::std::vec::Vec<::selvedge_guest::bindings::Read>) {
                let _ = prefix;
                #declares
            }

            #[inline(always)]
            fn decode(cells: &mut impl ::selvedge_guest::inputs::Cells) -> Self {
                Self { #decodes }
            }
        }
    })
}

fn derive_choice(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Enum(data) = &input.data else {
        return Err(Error::new(
            input.ident.span(),
            "derive this for an enum, each of whose variants stands for a text",
        ));
    };
    let mut texts = Vec::new();
    let mut variants = Vec::new();
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(Error::new(variant.span(), "a variant that stands for a text has no fields"));
        }
        let text = match find(&variant.attrs, "choice") {
            Some(attribute) => attribute.parse_args::<LitStr>()?,
            None => LitStr::new(&plain(&variant.ident), variant.span()),
        };
        if texts.iter().any(|other: &LitStr| other.value() == text.value()) {
            return Err(Error::new(text.span(), format!("two variants stand for {:?}", text.value())));
        }
        texts.push(text);
        variants.push(&variant.ident);
    }
    let codes = 0..variants.len() as u32;
    let name = &input.ident;
    Ok(quote! {
        impl ::selvedge_guest::Choice for #name {
            const CHOICES: &'static [&'static str] = &[#(#texts),*];
            const VARIANTS: &'static [Self] = &[#(Self::#variants),*];

            fn code(self) -> u32 {
                match self { #(Self::#variants => #codes),* }
            }
        }
    })
}

/// A parameter as its author may write it: a text or a number.
fn parameter(meta: &syn::meta::ParseNestedMeta<'_>) -> Result<String> {
    let value = meta.value()?;
    if value.peek(LitInt) {
        return Ok(value.parse::<LitInt>()?.base10_digits().to_owned());
    }
    Ok(value.parse::<LitStr>()?.value())
}

fn derive_aggregates(input: &DeriveInput) -> Result<TokenStream> {
    let mut declares = TokenStream::new();
    let mut handles = TokenStream::new();
    let mut functions = TokenStream::new();
    let mut computed = TokenStream::new();
    for (position, (field, name)) in named_fields(input)?.into_iter().enumerate() {
        let (mut windows, mut unit, mut parameters) = (Vec::new(), quote!(::core::option::Option::None), Vec::new());
        if let Some(attribute) = find(&field.attrs, "aggregate") {
            attribute.parse_nested_meta(|meta| {
                let key = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
                match key.as_str() {
                    "windows" => windows.extend(parameter(&meta)?.split_whitespace().map(str::to_owned)),
                    "unit" => {
                        let text = parameter(&meta)?;
                        unit = quote!(::core::option::Option::Some(#text.into()));
                    }
                    "of" | "per" | "less" | "decimals" | "count" | "half_life" | "by" | "q" | "bounds" | "gap" | "estimate"
                    | "parts" | "baseline" | "time_zone" | "anchor" | "sessions" | "history" => {
                        // Derived by the host: nothing is contributed through it, and that is no mistake.
                        if key == "of" {
                            computed.extend(quote!(let _ = &handles.#name;));
                        }
                        let (key, value) = (key.replace('_', "-"), parameter(&meta)?);
                        parameters.push(quote!((#key.into(), #value.into())));
                    }
                    _ => {
                        return Err(meta.error(
                            "unknown here; use windows, unit, of, per, less, decimals, count, half_life, by, q, bounds, gap, estimate, parts, \
                             baseline, time_zone, anchor, sessions or history",
                        ));
                    }
                }
                Ok(())
            })?;
        }
        let (field_type, text, position) = (&field.ty, plain(name), position as u32);
        declares.extend(quote_spanned!(field_type.span()=>
            ::selvedge_guest::bindings::Aggregate {
                name: #text.into(),
                operator: <#field_type as ::selvedge_guest::outputs::AggregateField>::OPERATOR.into(),
                parameters: ::std::vec![#(#parameters),*],
                windows: ::std::vec![#(#windows.into()),*],
                kind: <#field_type as ::selvedge_guest::outputs::AggregateField>::KIND,
                unit: #unit,
            },
        ));
        handles.extend(quote_spanned!(field_type.span()=>
            #name: <#field_type as ::selvedge_guest::outputs::AggregateField>::at(#position),
        ));
        functions.extend(quote_spanned!(field_type.span()=>
            #position => <#field_type as ::selvedge_guest::outputs::AggregateField>::functions(),
        ));
    }
    let name = &input.ident;
    Ok(quote! {
        impl ::selvedge_guest::outputs::Aggregates for #name {
            fn declare() -> ::std::vec::Vec<::selvedge_guest::bindings::Aggregate> {
                ::std::vec![#declares]
            }

            fn handles() -> Self {
                let handles = Self { #handles };
                #computed
                handles
            }

            fn functions(position: u32) -> ::core::option::Option<::selvedge_guest::custom::Functions> {
                match position {
                    #functions
                    _ => ::core::option::Option::None,
                }
            }
        }
    })
}

fn derive_scores(input: &DeriveInput) -> Result<TokenStream> {
    let mut declares = TokenStream::new();
    let mut values = TokenStream::new();
    for (field, name) in named_fields(input)? {
        let mut unit = quote!(::core::option::Option::None);
        if let Some(attribute) = find(&field.attrs, "score") {
            attribute.parse_nested_meta(|meta| {
                if !meta.path.is_ident("unit") {
                    return Err(meta.error("unknown here; use unit"));
                }
                let text = parameter(&meta)?;
                unit = quote!(::core::option::Option::Some(#text.into()));
                Ok(())
            })?;
        }
        let text = plain(name);
        declares.extend(quote!(::selvedge_guest::bindings::Score { name: #text.into(), unit: #unit },));
        // The ascription puts the error for another type at the author's field.
        let field_type = field.ty.to_token_stream();
        values.extend(quote_spanned!(field.ty.span()=> { let value: #field_type = self.#name; value },));
    }
    let name = &input.ident;
    Ok(quote! {
        impl ::selvedge_guest::outputs::Scores for #name {
            fn declare() -> ::std::vec::Vec<::selvedge_guest::bindings::Score> {
                ::std::vec![#declares]
            }

            fn values(self) -> ::std::vec::Vec<::core::option::Option<f64>> {
                ::std::vec![#values]
            }
        }
    })
}
