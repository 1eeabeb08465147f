// Package render turns the result of a run into what a person reads: one HTML page that works offline, a short
// Markdown summary, a JUnit file, and each picture as an SVG file. It reads results only; it never talks to a cluster.
//
// Whatever a run does not have is left out and named: a partial run gives a smaller page, not a broken one.
package render

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hacache/hacache/reports/compare"
	"github.com/hacache/hacache/reports/result"
)

// Dir renders the run in dir into dir: report.html, report.md, junit.xml and plots/*.svg. It returns the path of the page.
func Dir(dir string) (string, error) {
	r, err := result.Read(dir)
	if err != nil {
		return "", err
	}
	return Write(dir, r)
}

// Write renders r into dir, the run directory that the page's links are relative to. It returns the path of the page.
// Files are replaced at once, and pictures left by an earlier rendering are removed.
func Write(dir string, r *result.Run) (string, error) { return WriteAgainst(dir, r, nil) }

// WriteAgainst is [Write] with a section of how r, the head of g, differs from a baseline. g may be nil.
func WriteAgainst(dir string, r *result.Run, g *compare.Gate) (string, error) {
	drawn := drawAll(r)
	if g != nil {
		drawn.against = g
		drawn.baseline = []figure{effectFigure(&Comparison{Title: "baseline", Gates: []*compare.Gate{g}})}
	}
	plots := filepath.Join(dir, result.PlotsDir)
	if err := removePictures(plots); err != nil {
		return "", err
	}
	if figures := drawn.all(); len(figures) > 0 {
		if err := os.MkdirAll(plots, 0o755); err != nil {
			return "", fmt.Errorf("render: %w", err)
		}
		for i := range figures {
			if err := result.ReplaceFile(filepath.Join(plots, figures[i].Name+".svg"), figures[i].standalone()); err != nil {
				return "", fmt.Errorf("render: %w", err)
			}
		}
	}
	var md, junit, page bytes.Buffer
	if err := Markdown(&md, r); err != nil {
		return "", fmt.Errorf("render %s: %w", result.MarkdownFile, err)
	}
	if err := result.ReplaceFile(filepath.Join(dir, result.MarkdownFile), md.Bytes()); err != nil {
		return "", fmt.Errorf("render: %w", err)
	}
	if err := JUnit(&junit, r); err != nil {
		return "", fmt.Errorf("render %s: %w", result.JUnitFile, err)
	}
	if err := result.ReplaceFile(filepath.Join(dir, result.JUnitFile), junit.Bytes()); err != nil {
		return "", fmt.Errorf("render: %w", err)
	}
	if err := newPage(r, drawn).write(&page); err != nil {
		return "", fmt.Errorf("render %s: %w", result.ReportFile, err)
	}
	path := filepath.Join(dir, result.ReportFile)
	if err := result.ReplaceFile(path, page.Bytes()); err != nil {
		return "", fmt.Errorf("render: %w", err)
	}
	return path, nil
}
